"""What generation and training will need on a device, computed before they run."""

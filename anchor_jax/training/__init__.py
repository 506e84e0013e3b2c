"""What the programs in `train/` share: loss, optimizer, step, checkpoints, logs and report."""

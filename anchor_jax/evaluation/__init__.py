"""How close generated frames are to true ones: one file a metric."""

"""What the programs in `train/` share: the loss, the optimizer, the state and how it is kept."""

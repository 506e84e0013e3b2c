"""Training programs: `autoencoder`, `pretrain`, `finetune` and `face` (`anchor_jax.train`)."""

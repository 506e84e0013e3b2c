"""Programs that train: `autoencoder`, `pretrain`, `finetune` and `face` (`anchor_jax.train`)."""

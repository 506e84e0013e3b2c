"""The `anchor-jax` command: one file for each of its commands."""

from anchor_jax.cli.entry import main

__all__ = ["main"]

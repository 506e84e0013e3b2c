"""The `anchor-jax` command line, one file for each command."""

from anchor_jax.cli.entry import main

__all__ = ["main"]

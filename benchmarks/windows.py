"""Reproduces table 2 of the paper, with more pairs of window and overlap.

    python -m benchmarks.windows --out docs/benchmarks

The same as `anchor-jax bench windows`, with the same options.
"""

import sys

from anchor_jax import cli

if __name__ == "__main__":
    sys.exit(cli.main(["bench", "windows", *sys.argv[1:]]))

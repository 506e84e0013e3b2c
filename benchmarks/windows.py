"""Table 2 of the paper, and further pairs of window and overlap.

    python -m benchmarks.windows --out docs/benchmarks

The same as `anchor-jax bench windows`, whose options it takes.
"""

import sys

from anchor_jax import cli

if __name__ == "__main__":
    sys.exit(cli.main(["bench", "windows", *sys.argv[1:]]))

"""The command-line options that programs over a test clip share."""

import argparse
from pathlib import Path

from anchor_jax.assets import SHIPPED_NAME


def clip_parser(name: str, doc: str | None, anchor: str = "the ANCHOR") -> argparse.ArgumentParser:
    """Make a parser with the options --anchor and --clip.

    Args:
        name: of the program in `benchmarks`.
        doc: its docstring, which is its help.
        anchor: what the anchor is.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--anchor", type=Path, default=Path(SHIPPED_NAME), help=f"{anchor} (shipped)"
    )
    parser.add_argument("--clip", type=Path, help="folder of the test clip (the shipped one)")
    return parser

"""Compare window sizes and overlaps (paper, table 2)."""

from collections.abc import Sequence
from pathlib import Path

from anchor_jax.errors import AnchorError
from anchor_jax.studies.clip import Variant
from anchor_jax.studies.results import Result
from anchor_jax.studies.run import Row, Study, run_study


def study_windows(
    anchor: Path, study: Study, pairs: Sequence[str], variant: Variant, out: Path
) -> dict[str, Result]:
    """Generate a clip with several windows and overlaps, and write `windows.json`, `windows.md`,
    `windows.svg` and `windows.png`.

    Args:
        anchor: the ANCHOR.
        study: clip, frames and seeds.
        pairs: windows and overlaps, such as "16/4".
        variant: the other settings.
        out: the folder of the results.

    Returns:
        The results by their pairs.

    Raises:
        AnchorError: a pair is malformed, or as `run_study`.
    """
    rows = {}
    for pair in pairs:
        try:
            window, overlap = map(int, pair.split("/"))
        except ValueError:
            raise AnchorError(f"{pair}: expected window/overlap, such as 16/4") from None
        rows[f"{window}/{overlap}"] = Row(
            anchor, variant.with_sampling(window=window, overlap=overlap)
        )
    return run_study("windows", rows, study, out)

"""Table 2 of the paper: sizes of windows and their overlaps."""

from collections.abc import Sequence
from pathlib import Path

from anchor_jax.errors import AnchorError
from anchor_jax.studies.clip import Variant
from anchor_jax.studies.results import Result
from anchor_jax.studies.run import Row, Study, run_study


def study_windows(
    anchor: Path, study: Study, pairs: Sequence[str], variant: Variant, out: Path
) -> dict[str, Result]:
    """Generate a clip with every pair, `window/overlap`, and write `windows.json`, `.md`, `.svg`
    and `.png` into `out`; see `run_study`."""
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

"""Compare ways to repaint faces: what the paper's face stage costs in time, and windows against
it."""

from dataclasses import replace
from pathlib import Path

from anchor_jax.studies.clip import Variant
from anchor_jax.studies.results import Result
from anchor_jax.studies.run import Row, Study, run_study


def study_faces(anchor: Path, study: Study, variant: Variant, out: Path) -> dict[str, Result]:
    """Generate a clip with faces that are not repainted, repainted frame by frame (published), and
    in overlapping windows; write `faces.json`, `faces.md`, `faces.svg` and `faces.png`.

    Args:
        anchor: the ANCHOR.
        study: clip, frames and seeds.
        variant: the other settings.
        out: the folder of the results.

    Returns:
        The results by the titles of the rows.

    Raises:
        AnchorError: as `run_study`.
    """

    def row(windows: bool, faces: bool = True) -> Row:
        settings = variant.settings
        face = settings.face.updated(windows=windows)
        return Row(anchor, replace(variant, settings=replace(settings, face=face), faces=faces))

    rows = {
        "not repainted": row(windows=False, faces=False),
        "frame by frame": row(windows=False),
        "overlapping windows": row(windows=True),
    }
    return run_study("faces", rows, study, out)

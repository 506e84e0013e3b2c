"""Opens the body that a user chose, by name or file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from anchor_jax.errors import AnchorError

if TYPE_CHECKING:
    from anchor_jax.body.parallel import Body

FREE = "makehuman"
MANNEQUIN = "mannequin"


def open_body(choice: str = FREE, shape: Mapping[str, float] | None = None) -> "Body":
    """Open a body.

    Args:
        choice: "makehuman", the free body; "mannequin", a free body without a face; else a file:
            the licensed SMPL-X model (`.npz`), or another file of the free body's format.
        shape: values of the free body's shape axes; other bodies have none.

    Raises:
        AnchorError: the file is missing or damaged or is no body; a package is missing; or `shape`
            is given for a body without it.
    """
    from anchor_jax.body.body_file import is_body_file
    from anchor_jax.body.makehuman import MakeHuman

    if choice == FREE:
        return MakeHuman(shape=shape)
    path = Path(choice)
    if choice != MANNEQUIN and is_body_file(path):
        return MakeHuman(path, shape)
    if shape:
        raise AnchorError(f"the shape {', '.join(shape)} is the free body's alone, not of {choice}")
    if choice == MANNEQUIN:
        from anchor_jax.body.mannequin import Mannequin

        return Mannequin()
    from anchor_jax.body.smplx import Smplx

    return Smplx(path)

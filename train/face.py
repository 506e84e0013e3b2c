"""Train the face: inpaint crops of one person's face inside a mask (paper, section 3.3).

python -m train.face --anchor runs/seth/anchor --data seth --out runs/seth-face
"""

from collections.abc import Sequence

from .frozen import StagePictures
from .stage import Stage, run_stage

STAGE = Stage("face", "face", StagePictures("face", "face_pose", mask="face_mask"))

_HELP = """Train on crops of one person's face, to repaint it inside a mask.

    anchor-jax train face --anchor runs/seth/anchor --data data/seth --out runs/seth-face
"""


def main(args: Sequence[str] | None = None) -> None:
    """Run the program with the words of its command line, see `run_stage`."""
    run_stage(STAGE, _HELP, args)


if __name__ == "__main__":
    main()

"""The face: crops of one identity, repainted inside a mask (paper, section 3.3).

python -m train.face --anchor runs/seth/anchor --data seth --out runs/seth-face
"""

import sys
from collections.abc import Sequence

from .configs import PRESETS, Job, StagePlaces, parse
from .frozen import StagePictures
from .stage import Stage, train

STAGE = Stage("face", "face", StagePictures("face", "face_pose", mask="face_mask"))

TEXT = """Train on one person's face, cut out and to be repainted inside a mask.

    anchor-jax train face --anchor runs/seth/anchor --data data/seth --out runs/seth-face

Killed or interrupted, the same command goes on where the last checkpoint is. The result is
RUN/anchor; RUN/report.html shows curves and pictures, and TensorBoard reads RUN/events.
"""


def main(args: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if args is None else args
    train(STAGE, parse(Job, StagePlaces, PRESETS[STAGE.name], STAGE.name, TEXT, words))


if __name__ == "__main__":
    main()

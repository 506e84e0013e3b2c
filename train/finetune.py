"""Stage two: one identity, with its background (paper, section 3.1).

python -m train.finetune --anchor runs/pretrain/anchor --data seth --out runs/seth
"""

import sys
from collections.abc import Sequence

from .configs import PRESETS, Job, StagePlaces, parse
from .frozen import StagePictures
from .stage import Stage, train

STAGE = Stage("finetune", "body", StagePictures())

TEXT = """Train on one person, with the background: stage two.

    anchor-jax train finetune --anchor runs/pretrain/anchor --data data/seth --out runs/seth

Killed or interrupted, the same command goes on where the last checkpoint is. The result is
RUN/anchor; RUN/report.html shows curves and pictures, and TensorBoard reads RUN/events.
"""


def main(args: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if args is None else args
    train(STAGE, parse(Job, StagePlaces, PRESETS[STAGE.name], STAGE.name, TEXT, words))


if __name__ == "__main__":
    main()

"""Stage one: many identities, with the background cut away (paper, section 3.1).

python -m train.pretrain --anchor fresh --data many --out runs/pretrain
"""

import sys
from collections.abc import Sequence

from .configs import PRESETS, Job, StagePlaces, parse
from .frozen import StagePictures
from .stage import Stage, train

STAGE = Stage("pretrain", "body", StagePictures(matte="matte"))

TEXT = """Train on many people, their backgrounds cut away by mattes: stage one.

    anchor-jax train pretrain --anchor anchors/fresh --data data/many --out runs/pretrain

Killed or interrupted, the same command goes on where the last checkpoint is. The result is
RUN/anchor; RUN/report.html shows curves and pictures, and TensorBoard reads RUN/events.
"""


def main(args: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if args is None else args
    train(STAGE, parse(Job, StagePlaces, PRESETS[STAGE.name], STAGE.name, TEXT, words))


if __name__ == "__main__":
    main()

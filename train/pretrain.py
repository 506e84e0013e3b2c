"""Train stage one: many people, with the background removed (paper, section 3.1).

python -m train.pretrain --anchor fresh --data many --out runs/pretrain
"""

from collections.abc import Sequence

from .frozen import StagePictures
from .stage import Stage, run_stage

STAGE = Stage("pretrain", "body", StagePictures(matte="matte"))

_HELP = """Train on many people, with their backgrounds removed by mattes: stage one.

    anchor-jax train pretrain --anchor anchors/fresh --data data/many --out runs/pretrain
"""


def main(args: Sequence[str] | None = None) -> None:
    """Run the program with the words of its command line, see `run_stage`."""
    run_stage(STAGE, _HELP, args)


if __name__ == "__main__":
    main()

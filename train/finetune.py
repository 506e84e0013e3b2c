"""Train stage two: one person, with the background (paper, section 3.1).

python -m train.finetune --anchor runs/pretrain/anchor --data seth --out runs/seth
"""

from collections.abc import Sequence

from .frozen import StagePictures
from .stage import Stage, run_stage

STAGE = Stage("finetune", "body", StagePictures())

_HELP = """Train on one person, with the background: stage two.

    anchor-jax train finetune --anchor runs/pretrain/anchor --data data/seth --out runs/seth
"""


def main(args: Sequence[str] | None = None) -> None:
    """Run the program with the words of its command line, see `run_stage`."""
    run_stage(STAGE, _HELP, args)


if __name__ == "__main__":
    main()

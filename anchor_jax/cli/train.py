"""`anchor-jax train`: its stages are commands of their own, whose defaults depend on --preset."""

from collections.abc import Sequence
from importlib import import_module

from anchor_jax.cli.options import help_text, need_extra, use_compile_cache, without_logs
from anchor_jax.errors import AnchorError

STAGES = ("autoencoder", "pretrain", "finetune", "face")
MODULES = "grain", "optax", "tensorboardX", "matplotlib", "tensorflow_datasets"


class Train:
    """Train an anchor on data sets: many people first, then the one.

        anchor-jax train pretrain --anchor anchors/fresh --data data/many --out runs/many
        anchor-jax train finetune --anchor runs/many/anchor --data data/seth --out runs/seth
        anchor-jax train face --anchor runs/seth/anchor --data data/seth --out runs/face

    `anchor-jax train autoencoder` makes a small anchor of one's own to begin with. Each of the
    four explains its settings: anchor-jax train finetune --help.
    """


def run_training(words: Sequence[str]) -> None:
    """Run the stage that the first word names."""
    stage, *rest = words or ["--help"]
    if stage in {"-h", "--help"}:
        print(f"usage: anchor-jax train {{{','.join(STAGES)}}} ...\n\n{help_text(Train)}")
        return
    if stage not in STAGES:
        raise AnchorError(f"unknown stage {stage}; expected one of {', '.join(STAGES)}")
    need_extra("train", *MODULES)
    use_compile_cache()
    program = import_module(f"anchor_jax.train.{stage}")
    with without_logs():
        program.main(rest or ["--help"])

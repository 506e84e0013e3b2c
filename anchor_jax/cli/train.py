"""Implement `anchor-jax train`. Each stage parses its own options: defaults depend on --preset."""

from collections.abc import Sequence
from importlib import import_module

from anchor_jax.cli.options import help_text, need_extra, use_compile_cache, without_logs
from anchor_jax.errors import AnchorError

_STAGES = ("autoencoder", "pretrain", "finetune", "face")
MODULES = "grain", "optax", "tensorboardX", "matplotlib", "tensorflow_datasets"


class Train:
    """Train an anchor on data sets: first many people, then one person.

        anchor-jax train pretrain --anchor anchors/fresh --data data/many --out runs/many
        anchor-jax train finetune --anchor runs/many/anchor --data data/seth --out runs/seth
        anchor-jax train face --anchor runs/seth/anchor --data data/seth --out runs/face

    `anchor-jax train autoencoder` trains a small anchor to start from. Each of the four stages has
    its own help: anchor-jax train finetune --help.
    """


def run_training(words: Sequence[str]) -> None:
    """Run the stage that the first word names.

    Raises:
        AnchorError: the stage is unknown, packages are missing, or as the stage.
    """
    stage, *rest = words or ["--help"]
    if stage in {"-h", "--help"}:
        print(f"usage: anchor-jax train {{{','.join(_STAGES)}}} ...\n\n{help_text(Train)}")
        return
    if stage not in _STAGES:
        raise AnchorError(f"unknown stage {stage}; expected one of {', '.join(_STAGES)}")
    need_extra("train", *MODULES)
    use_compile_cache()
    program = import_module(f"anchor_jax.train.{stage}")
    from anchor_jax.compiling import explained_memory

    with without_logs(), explained_memory("train"):
        program.main(rest or ["--help"])

"""Our own format of a person's model: an ANCHOR, a folder."""

from anchor_jax.checkpoint.anchor import (
    FORMAT_VERSION,
    NETWORKS,
    OPTIONAL,
    TOKENIZER_FILES,
    Anchor,
    describe,
    load,
    params_folder,
    read_header,
    save,
)

__all__ = [
    "FORMAT_VERSION",
    "NETWORKS",
    "OPTIONAL",
    "TOKENIZER_FILES",
    "Anchor",
    "describe",
    "load",
    "params_folder",
    "read_header",
    "save",
]

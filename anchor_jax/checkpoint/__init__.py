"""Read and write an ANCHOR, the folder that stores the model of one person."""

from anchor_jax.checkpoint.anchor import (
    NETWORKS,
    Anchor,
    Network,
    Part,
    Settings,
    assemble,
    with_networks,
)
from anchor_jax.checkpoint.describe import describe
from anchor_jax.checkpoint.folder import (
    FORMAT_VERSION,
    TOKENIZER_FILES,
    check_stored,
    load,
    params_folder,
    read_header,
    save,
    store_settings,
)
from anchor_jax.checkpoint.settings import FRESH_NOTE, SMALL_SETTINGS

__all__ = [
    "FORMAT_VERSION",
    "FRESH_NOTE",
    "NETWORKS",
    "SMALL_SETTINGS",
    "TOKENIZER_FILES",
    "Anchor",
    "Network",
    "Part",
    "Settings",
    "assemble",
    "check_stored",
    "describe",
    "load",
    "params_folder",
    "read_header",
    "save",
    "store_settings",
    "with_networks",
]

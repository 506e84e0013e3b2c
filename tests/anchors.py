"""Make anchors for tests from configs and parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from anchor_jax.checkpoint import NETWORKS, Anchor, Network, assemble
from anchor_jax.diffusion import ScheduleConfig
from anchor_jax.models import NetworkConfig
from anchor_jax.shapes import Params


def make_anchor(
    configs: Mapping[str, NetworkConfig],
    params: Mapping[str, Params],
    empty_text: np.ndarray,
    **rest: Any,
) -> Anchor:
    """Make an anchor whose parts are trained.

    Args:
        configs: configs of networks by their names on disk; the others have default configs.
        params: parameters of networks; the others have none.
        empty_text: float32 (tokens, width), the embedding of the empty text.
        rest: other fields of the anchor.
    """
    face = "face/unet" in configs
    names = [name for name in NETWORKS if face or not name.startswith("face/")]
    networks = {
        name: Network(configs.get(name, NETWORKS[name]()), params.get(name, {})) for name in names
    }
    rest = {"schedule": ScheduleConfig(), "empty_text": empty_text} | rest
    return assemble(networks, {"body": True, "face": True}, **rest)

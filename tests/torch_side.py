"""What parity and golden tests share: torch networks of random weights, those weights as our
parameters by way of the converter's name map, and how far two results are apart."""

from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import torch

from anchor_jax.checkpoint.parameters import flatten, unflatten
from anchor_jax.convert import names
from anchor_jax.convert.sources import Tensor, Weights
from anchor_jax.models import CLIPTextConfig, CLIPVisionConfig, NetworkConfig
from benchmarks.torch_peer import torch_network


def relative(ours, theirs) -> float:
    """Relative L2 distance, in float64."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, f"{ours.shape} is not {theirs.shape}"
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def randomise(module: torch.nn.Module, seed: int = 0, std: float = 0.1) -> torch.nn.Module:
    """Draw every parameter, zero convolutions included; norm scales are drawn around one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
            if parameter.ndim == 1 and "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return module.eval().requires_grad_(False)


def random_network(config: NetworkConfig, seed: int = 0) -> torch.nn.Module:
    """A randomised diffusers or transformers network of one of our configs."""
    return randomise(torch_network(config), seed)


def network_params(config: NetworkConfig, network: torch.nn.Module):
    """The network's weights as our parameters; every tensor must be used."""
    prefix = {CLIPVisionConfig: "vision_model.", CLIPTextConfig: "text_model."}.get(
        type(config), ""
    )
    tensors = {}
    for name, value in network.state_dict().items():
        array = value.numpy()
        name = name if name.startswith(prefix) else prefix + name
        tensors[name] = Tensor(array.shape, "float32", lambda array=array: array)
    found = names.match(config, Weights(Path("memory"), tensors), "float32")
    assert not found.problems
    assert set(tensors) - found.used <= set(names.POSITION_IDS.values())
    return jax.tree.map(lambda leaf: leaf.read(), found.tree)


def module_params(module: nn.Module, torch_module: torch.nn.Module, *inputs):
    """Parameters of a part of a network; `inputs` are those of its call."""
    state = {name: value.numpy() for name, value in torch_module.state_dict().items()}
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    leaves = {
        path: names.from_torch(path, state.pop(names.torch_key(path)), leaf.shape)
        for path, leaf in flatten(shapes).items()
    }
    assert not state, f"left over: {list(state)}"
    return unflatten(leaves)


def to_torch(x) -> torch.Tensor:
    """(b, f, h, w, c) or (b, h, w, c) to a torch tensor of folded frames, channels first."""
    x = np.asarray(x)
    x = x.reshape(-1, *x.shape[-3:])
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def to_ours(x: torch.Tensor, num_frames: int | None = None) -> np.ndarray:
    """The inverse; `num_frames` unfolds frames."""
    out = x.detach().numpy().transpose(0, 2, 3, 1)
    return out if num_frames is None else out.reshape(-1, num_frames, *out.shape[1:])


def channels_last(array: np.ndarray) -> np.ndarray:
    """Recorded videos: (b, c, f, h, w) -> (b, f, h, w, c)."""
    return np.moveaxis(array, 1, -1)

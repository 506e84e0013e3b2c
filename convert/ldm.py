"""Infers configs from a single-file checkpoint: UNet, VAE and text encoder in one file, no configs.

Widths and depths follow from the shapes of the tensors. Where no shape gives a value, it is that of
Stable Diffusion 1.5: 8 attention heads, 32 norm groups, text heads 64 wide, the published schedule.
The format is that of latent diffusion models (LDM, https://arxiv.org/abs/2112.10752); `names` maps
its keys.
"""

from collections.abc import Callable

from anchor_jax.errors import AnchorError
from anchor_jax.models import CLIPTextConfig, UNetConfig, VAEConfig

from .names import LDM_TEXT, LDM_UNET, LDM_VAE
from .sources import Weights

_TEXT_HEAD_WIDTH = 64

# Prefixes of keys that identify files of other model families.
_OTHER_FAMILIES = {
    "conditioner.": "Stable Diffusion XL",
    "cond_stage_model.model.": "Stable Diffusion 2",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "Flux",
    "double_blocks.": "Flux",
    "control_model.": "a ControlNet in a single file",
    "lora_": "a LoRA",
}


def refuse_other_families(weights: Weights) -> None:
    """Raise AnchorError if the file is of another model family or lacks one of the networks."""
    for prefix, family in _OTHER_FAMILIES.items():
        if any(key.startswith(prefix) for key in weights.tensors):
            raise AnchorError(
                f"{weights.path}: this is {family}, expected a Stable Diffusion 1.5 base"
            )
    missing = [
        prefix
        for prefix in (LDM_UNET, LDM_VAE, LDM_TEXT)
        if not any(key.startswith(prefix) for key in weights.tensors)
    ]
    if missing:
        raise AnchorError(
            f"{weights.path}: not a whole Stable Diffusion 1.5 base, nothing in it begins with"
            f" {' or '.join(missing)}"
        )


def infer_unet(weights: Weights) -> UNetConfig:
    """Infer the UNet's config from the numbers of its blocks and the shapes of a few tensors.

    Raises:
        AnchorError: a tensor that is needed for this is missing or is not at least 2D.
    """
    shape = _Shapes(weights, LDM_UNET)
    stride = next((i for i in range(1, 64) if f"input_blocks.{i}.0.op.weight" in shape), 3)
    firsts = [i for i in range(1, 256, stride) if f"input_blocks.{i}.0.in_layers.2.weight" in shape]
    attends = [f"input_blocks.{i}.1.norm.weight" in shape for i in firsts]
    key = "input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
    context = [shape(key.format(i))[1] for i, cross in zip(firsts, attends, strict=True) if cross]
    return UNetConfig(
        in_channels=shape("input_blocks.0.0.weight")[1],
        channels=tuple(shape(f"input_blocks.{i}.0.in_layers.2.weight")[0] for i in firsts),
        layers_per_block=stride - 1,
        cross_attention=tuple(attends),
        context_dim=context[0] if context else 768,
        out_channels=shape("out.2.weight")[0],
    )


def infer_vae(weights: Weights) -> VAEConfig:
    """Infer the VAE's config; errors as for `infer_unet`."""
    shape = _Shapes(weights, LDM_VAE)
    key = "encoder.down.{}.block.{}.conv1.weight"
    levels = shape.count(lambda i: key.format(i, 0))
    return VAEConfig(
        image_channels=shape("encoder.conv_in.weight")[1],
        latent_channels=shape("post_quant_conv.weight")[0],
        channels=tuple(shape(key.format(i, 0))[0] for i in range(levels)),
        layers_per_block=shape.count(lambda i: key.format(0, i)),
    )


def infer_text_encoder(weights: Weights) -> CLIPTextConfig:
    """Infer the text encoder's config; errors as for `infer_unet`, and for an unusual width."""
    shape = _Shapes(weights, LDM_TEXT + "text_model.")
    vocab_size, width = shape("embeddings.token_embedding.weight")
    if width % _TEXT_HEAD_WIDTH:
        raise AnchorError(
            f"{weights.path}: a text encoder of width {width}, expected a multiple of"
            f" {_TEXT_HEAD_WIDTH}"
        )
    return CLIPTextConfig(
        vocab_size=vocab_size,
        max_length=shape("embeddings.position_embedding.weight")[0],
        width=width,
        mlp_width=shape("encoder.layers.0.mlp.fc1.weight")[0],
        num_layers=shape.count("encoder.layers.{}.mlp.fc1.weight".format),
        num_heads=width // _TEXT_HEAD_WIDTH,
    )


class _Shapes:
    """Looks up the shapes of the tensors that have a prefix. Every shape must be at least 2D."""

    def __init__(self, weights: Weights, prefix: str):
        self.weights, self.prefix = weights, prefix

    def __contains__(self, key: str) -> bool:
        return self.prefix + key in self.weights.tensors

    def __call__(self, key: str) -> tuple[int, ...]:
        if key not in self or len(self.weights.tensors[self.prefix + key].shape) < 2:
            raise AnchorError(
                f"{self.weights.path}: not shaped like Stable Diffusion 1.5, {self.prefix}{key} is"
                " missing or no matrix"
            )
        return self.weights.tensors[self.prefix + key].shape

    def count(self, key: Callable[[int], str]) -> int:
        """Return how many of key(0), key(1), ... are present without a gap."""
        return next(i for i in range(1 << 16) if key(i) not in self)

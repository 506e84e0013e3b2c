"""The published computation in PyTorch: diffusers networks, inflated over the frames of a window.

Our speed is compared with this reference, so it is as fast as plain PyTorch allows.
Attention is fused and folds frames into the sequence. Convolutions are channels-last, so that a
group norm over several frames needs a view and no copy. `tests/golden` checks it against golden B.

Tensors are PyTorch's `(b f) c h w`; b batch, f frames, s sequence.
"""

# torch and diffusers are typed too loosely.
# pyright: reportPrivateImportUsage=false, reportCallIssue=false

from contextlib import contextmanager

import diffusers
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from anchor_jax.convert.published import network_json
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
)
from benchmarks.random_checkpoint import random_tensor


class FoldFrames:
    """Fused attention of a diffusers `Attention` for the queries of all frames at once.

    Cross-attention reads its context once per window. Self-attention is joint over the frames if
    `joint` is true, else separate for each frame.
    """

    def __init__(self, num_frames: int, joint: bool):
        self.num_frames, self.joint = num_frames, joint

    def __call__(self, attn, hidden_states: Tensor, encoder_hidden_states=None, **_) -> Tensor:
        x = hidden_states
        if self.joint or encoder_hidden_states is not None:
            x = x.unflatten(0, (-1, self.num_frames)).flatten(1, 2)
        context = x if encoder_hidden_states is None else encoder_hidden_states

        def heads(y: Tensor) -> Tensor:
            return y.unflatten(2, (attn.heads, -1)).transpose(1, 2)

        query, key, value = (
            heads(attn.to_q(x)),
            heads(attn.to_k(context)),
            heads(attn.to_v(context)),
        )
        out = F.scaled_dot_product_attention(query, key, value)
        return attn.to_out[0](out.transpose(1, 2).flatten(2)).view_as(hidden_states)


class PooledGroupNorm(nn.GroupNorm):
    """A GroupNorm whose statistics are over all frames of a window."""

    num_frames: int

    def forward(self, input: Tensor) -> Tensor:
        frames, channels, height, width = input.shape
        batch = frames // self.num_frames
        if input.is_contiguous(memory_format=torch.channels_last):
            # In this layout the frames can be stacked along the height without a copy.
            x = input.permute(0, 2, 3, 1).reshape(batch, -1, width, channels).permute(0, 3, 1, 2)
            x = super().forward(x).permute(0, 2, 3, 1).reshape(frames, height, width, channels)
            return x.permute(0, 3, 1, 2)
        x = input.unflatten(0, (batch, -1)).transpose(1, 2)
        return super().forward(x).transpose(1, 2).flatten(0, 1)


def inflate(unet, control, num_frames: int, per_frame: bool = False) -> None:
    """Turn diffusers networks into those of the published body program, in place.

    With `per_frame` they become those of the published face program, which compute each frame alone
    and read the context once per window.
    """
    for network, joint in (unet, not per_frame), (control, False):
        for name, module in network.named_modules():
            if name.endswith(("attn1", "attn2")):
                module.set_processor(FoldFrames(num_frames, joint))
            pooled = name.endswith("conv_norm_out") or ("resnets" in name and "norm" in name)
            if pooled and not per_frame:
                module.__class__ = PooledGroupNorm
                module.num_frames = num_frames


def window_step(
    unet,
    control,
    latents: Tensor,
    timestep: int,
    context: Tensor,
    poses: Tensor,
    scale: float,
    inpainting: Tensor | None = None,
) -> Tensor:
    """Predict the noise of one window, of the face program if `inpainting` is given.

    Args:
        unet, control: networks from `inflate`.
        latents: (b f) c h w.
        timestep: the same for all frames.
        context: b s c.
        poses: (b f) 3 H W in [0, 1], or f 3 H W to embed them once for both halves of guidance.
        scale: factor of the control residuals.
        inpainting: (b f) k h w, mask and masked latents, which the UNet reads after the latents.
    """
    repeats = len(latents) // len(poses)
    share = control.controlnet_cond_embedding.register_forward_hook(
        lambda module, args, out: out.repeat(repeats, 1, 1, 1)
    )
    with _removing(share):
        down, mid = control(
            latents, timestep, context, poses, conditioning_scale=scale, return_dict=False
        )
    # The last residual reaches the mid block as well as the skip, but not in the face program.
    alias = unet.mid_block.register_forward_pre_hook(
        lambda module, args: (args[0] + down[-1], *args[1:]) if inpainting is None else None
    )
    with _removing(alias):
        return unet(
            latents if inpainting is None else torch.cat([latents, inpainting], 1),
            timestep,
            context,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]


@contextmanager
def _removing(hook):
    try:
        yield
    finally:
        hook.remove()


def torch_network(config: NetworkConfig):
    """Make the diffusers or transformers module of a config, with its own initial weights."""
    settings = {k: v for k, v in network_json(config).items() if not k.startswith("_")}
    match config:
        case UNetConfig():
            return diffusers.UNet2DConditionModel(**settings)
        case ControlConfig():
            return diffusers.ControlNetModel(**settings)
        case VAEConfig():
            return diffusers.AutoencoderKL(**settings)
        case CLIPVisionConfig():
            return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**settings))
        case CLIPTextConfig():
            return transformers.CLIPTextModel(transformers.CLIPTextConfig(**settings))


def random_network(config: NetworkConfig, seed: int):
    """Make a diffusers network with the weights of `random_checkpoint`, without a second copy."""
    with torch.device("meta"):
        network = torch_network(config)
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    for name, tensor in network.state_dict().items():
        tensor.copy_(torch.from_numpy(random_tensor(name, tuple(tensor.shape), seed)))
    return network.to(memory_format=torch.channels_last)

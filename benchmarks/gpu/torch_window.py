"""The window step in plain PyTorch, without diffusers: control branch and UNet of one window.

Module names are those of the published checkpoints, so that weights can be carried over; a test
compares the results with ours. As in `benchmarks.torch_peer`, attention is fused and folds the
frames into the sequence, tensors are channels last, and pose images are embedded once for both
halves of guidance. Tensors are PyTorch's `(b f) c h w`.
"""

# torch is typed too loosely.
# pyright: reportPrivateImportUsage=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportIndexIssue=false, reportGeneralTypeIssues=false

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anchor_jax.models import ControlConfig, UNetConfig
from anchor_jax.models.configs import EncoderConfig


class _Pooled(nn.GroupNorm):
    """A group norm whose statistics are over `frames` images."""

    def __init__(self, groups: int, channels: int, frames: int, epsilon: float = 1e-5):
        super().__init__(groups, channels, epsilon)
        self.frames = frames

    def forward(self, input: Tensor) -> Tensor:
        n, c, h, w = input.shape
        # Channels last, the frames of a window can be stacked along the height without a copy.
        x = input.permute(0, 2, 3, 1).reshape(n // self.frames, self.frames * h, w, c)
        x = super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x.reshape(n, h, w, c).permute(0, 3, 1, 2)


class _Residual(nn.Module):
    """A residual block of the given sizes, with the time embedding."""

    def __init__(self, c: EncoderConfig, inputs: int, outputs: int, frames: int):
        super().__init__()
        self.norm1 = _Pooled(c.norm_groups, inputs, frames)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * c.channels[0], outputs)
        self.norm2 = _Pooled(c.norm_groups, outputs, frames)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(time))[:, :, None, None]
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class _Attention(nn.Module):
    """Attention over the tokens of `frames` images, or of these to a context."""

    def __init__(self, width: int, context: int, heads: int, frames: int):
        super().__init__()
        self.heads, self.frames = heads, frames
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        x = tokens.unflatten(0, (-1, self.frames)).flatten(1, 2)
        context = x if context is None else context
        split = lambda y: y.unflatten(2, (self.heads, -1)).transpose(1, 2)
        out = F.scaled_dot_product_attention(
            split(self.to_q(x)), split(self.to_k(context)), split(self.to_v(context))
        )
        return self.to_out[0](out.transpose(1, 2).flatten(2)).view_as(tokens)


class _Gated(nn.Module):
    """The first part of the feed-forward layer."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, -1)
        return x * F.gelu(gate)


class _FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(_Gated(width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class _TransformerBlock(nn.Module):
    def __init__(self, c: EncoderConfig, width: int, frames: int, joint: bool):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1 = _Attention(width, width, c.num_heads, frames if joint else 1)
        self.attn2 = _Attention(width, c.context_dim, c.num_heads, frames)
        self.ff = _FeedForward(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class _Transformer(nn.Module):
    """A transformer block over the pixels of each image."""

    def __init__(self, c: EncoderConfig, width: int, frames: int, joint: bool):
        super().__init__()
        self.norm = nn.GroupNorm(c.norm_groups, width, 1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        block = _TransformerBlock(c, width, frames, joint)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        n, c, h, w = x.shape
        tokens = self.proj_in(self.norm(x)).permute(0, 2, 3, 1).reshape(n, h * w, c)
        tokens = self.transformer_blocks[0](tokens, context)
        return x + self.proj_out(tokens.reshape(n, h, w, c).permute(0, 3, 1, 2))


class _Resample(nn.Module):
    """Halve the size with a strided convolution, or double it before one."""

    def __init__(self, channels: int, up: bool):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, 1 if up else 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else x)


class _Block(nn.Module):
    """One level of the encoder or the decoder, or the mid block."""

    def __init__(self, residuals: list[_Residual], transformers: list[_Transformer]):
        super().__init__()
        self.resnets = nn.ModuleList(residuals)
        self.attentions = nn.ModuleList(transformers)


class _Encoder(nn.Module):
    """What UNet and control branch have in common: time embedding, levels down, mid block."""

    def __init__(self, c: EncoderConfig, frames: int, joint: bool):
        super().__init__()
        self.c, self.frames, self.joint = c, frames, joint
        self.conv_in = nn.Conv2d(c.in_channels, c.channels[0], 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {
                "linear_1": nn.Linear(c.channels[0], 4 * c.channels[0]),
                "linear_2": nn.Linear(4 * c.channels[0], 4 * c.channels[0]),
            }
        )
        inputs = [c.channels[0], *c.channels[:-1]]
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(c.channels):
            sizes = [(inputs[level] if i == 0 else width, width) for i in range(c.layers_per_block)]
            block = self._block(level, sizes)
            last = level == len(c.channels) - 1
            block.downsamplers = nn.ModuleList([] if last else [_Resample(width, False)])
            self.down_blocks.append(block)
        width = c.channels[-1]
        residuals = [_Residual(c, width, width, frames) for _ in range(2)]
        self.mid_block = _Block(residuals, [_Transformer(c, width, frames, joint)])

    def _block(self, level: int, sizes: list[tuple[int, int]]) -> _Block:
        c = self.c
        residuals = [_Residual(c, *size, self.frames) for size in sizes]
        count = len(sizes) if c.cross_attention[level] else 0
        width = c.channels[level]
        transformers = [_Transformer(c, width, self.frames, self.joint) for _ in range(count)]
        return _Block(residuals, transformers)

    def embed(self, timestep: float, like: Tensor) -> Tensor:
        """Embed a timestep for all images, computing the sinusoid in float32."""
        half = self.c.channels[0] // 2
        steps = torch.arange(half, device=like.device, dtype=torch.float32)
        angles = timestep * torch.exp(-math.log(10_000.0) / half * steps)
        x = torch.cat([angles.cos(), angles.sin()])[None].to(like.dtype)
        layers = self.time_embedding
        return layers["linear_2"](F.silu(layers["linear_1"](x))).expand(len(like), -1)

    def down(self, x: Tensor, time: Tensor, context: Tensor) -> list[Tensor]:
        skips = [x]
        for block in self.down_blocks:
            for i, residual in enumerate(block.resnets):
                x = residual(x, time)
                x = block.attentions[i](x, context) if len(block.attentions) else x
                skips.append(x)
            for resample in block.downsamplers:
                x = resample(x)
                skips.append(x)
        return skips

    def mid(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        block = self.mid_block
        x = block.attentions[0](block.resnets[0](x, time), context)
        return block.resnets[1](x, time)


class _PoseEmbedding(nn.Module):
    """Convolutions from pose images to the size of the latents."""

    def __init__(self, c: ControlConfig):
        super().__init__()
        hidden = c.pose_embedding_channels
        self.conv_in = nn.Conv2d(c.pose_channels, hidden[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for inputs, outputs in pairwise(hidden):
            self.blocks.append(nn.Conv2d(inputs, inputs, 3, padding=1))
            self.blocks.append(nn.Conv2d(inputs, outputs, 3, 2, padding=1))
        self.conv_out = nn.Conv2d(hidden[-1], c.channels[0], 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv_in(x))
        for conv in self.blocks:
            x = F.silu(conv(x))
        return self.conv_out(x)


class Control(_Encoder):
    """The control branch. Its self-attention never spans the frames."""

    def __init__(self, c: ControlConfig, frames: int):
        super().__init__(c, frames, joint=False)
        self.controlnet_cond_embedding = _PoseEmbedding(c)
        widths = [c.channels[0]]
        for level, width in enumerate(c.channels):
            last = level == len(c.channels) - 1
            widths += [width] * (c.layers_per_block + (not last))
        self.controlnet_down_blocks = nn.ModuleList([nn.Conv2d(w, w, 1) for w in widths])
        self.controlnet_mid_block = nn.Conv2d(c.channels[-1], c.channels[-1], 1)

    def forward(
        self, latents: Tensor, timestep: float, context: Tensor, poses: Tensor, scale: float
    ) -> list[Tensor]:
        """Compute the residuals: one for each skip, and one for the mid block."""
        time = self.embed(timestep, latents)
        pose = self.controlnet_cond_embedding(poses)
        x = self.conv_in(latents) + pose.repeat(len(latents) // len(pose), 1, 1, 1)
        skips = self.down(x, time, context)
        mid = self.controlnet_mid_block(self.mid(skips[-1], time, context)) * scale
        convolutions = zip(self.controlnet_down_blocks, skips, strict=True)
        return [*(conv(skip) * scale for conv, skip in convolutions), mid]


class UNet(_Encoder):
    """The UNet, whose self-attention spans the frames."""

    def __init__(self, c: UNetConfig, frames: int):
        super().__init__(c, frames, joint=True)
        skips = [c.channels[0]]
        for level, width in enumerate(c.channels):
            last = level == len(c.channels) - 1
            skips += [width] * (c.layers_per_block + (not last))
        x, self.up_blocks = c.channels[-1], nn.ModuleList()
        for level in reversed(range(len(c.channels))):
            sizes = []
            for _ in range(c.layers_per_block + 1):
                sizes.append((x + skips.pop(), c.channels[level]))
                x = c.channels[level]
            block = self._block(level, sizes)
            block.upsamplers = nn.ModuleList([_Resample(x, True)] if level else [])
            self.up_blocks.append(block)
        self.conv_norm_out = _Pooled(c.norm_groups, x, frames)
        self.conv_out = nn.Conv2d(x, c.out_channels, 3, padding=1)

    def forward(
        self, latents: Tensor, timestep: float, context: Tensor, control: list[Tensor]
    ) -> Tensor:
        """Predict the noise."""
        time = self.embed(timestep, latents)
        skips = self.down(self.conv_in(latents), time, context)
        skips = [skip + residual for skip, residual in zip(skips, control[:-1], strict=True)]
        # The last residual reaches the mid block as well as the skip.
        x = self.mid(skips[-1], time, context) + control[-1]
        for block in self.up_blocks:
            for i, residual in enumerate(block.resnets):
                x = residual(torch.cat([x, skips.pop()], 1), time)
                x = block.attentions[i](x, context) if len(block.attentions) else x
            for resample in block.upsamplers:
                x = resample(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class WindowStep(nn.Module):
    """Control branch and UNet of one window.

    Args:
        unet: config of the UNet.
        control: config of the control branch.
        frames: frames of the window.
    """

    def __init__(self, unet: UNetConfig, control: ControlConfig, frames: int):
        super().__init__()
        self.unet, self.control = UNet(unet, frames), Control(control, frames)

    def forward(
        self, latents: Tensor, timestep: float, context: Tensor, poses: Tensor, scale: float
    ) -> Tensor:
        """Predict the noise for both halves of guidance.

        Args:
            latents: f c h w.
            timestep: the same for all frames.
            context: 2 s c.
            poses: f 3 H W, 0 to 1.
            scale: factor of the control residuals.

        Returns:
            (2 f) c h w.
        """
        both = latents.repeat(len(context), 1, 1, 1)
        residuals = self.control(both, timestep, context, poses, scale)
        return self.unet(both, timestep, context, residuals)


def random_step(
    unet: UNetConfig, control: ControlConfig, frames: int, device: str, dtype: torch.dtype
) -> WindowStep:
    """Make the networks with random weights on a device, without a copy elsewhere."""
    with torch.device("meta"):
        step = WindowStep(unet, control, frames)
    step = step.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    for parameter in step.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()))
        else:
            parameter.fill_(0)
    for module in step.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.weight.fill_(1)
    return step.to(memory_format=torch.channels_last)

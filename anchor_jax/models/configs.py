"""Frozen configs of the five networks. Defaults are Stable Diffusion 1.5 and CLIP ViT-B/32."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderConfig:
    """What the UNet's encoder half and the control branch have in common.

    Attributes:
        in_channels: channels of the network's input (4 latents; 9 for the face stage:
            4 latents, 1 mask, 4 masked-image latents).
        channels: feature channels of each resolution level, finest first.
        layers_per_block: residual blocks per level of the encoder (the decoder has one more).
        cross_attention: for each level, whether its blocks hold spatial transformers.
        num_heads: attention heads, the same number at every level.
        context_dim: width of the cross-attention tokens.
        norm_groups: groups of every group normalisation.
    """

    in_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    cross_attention: tuple[bool, ...] = (True, True, True, False)
    num_heads: int = 8
    context_dim: int = 768
    norm_groups: int = 32


@dataclass(frozen=True)
class UNetConfig(EncoderConfig):
    """The denoising UNet. `out_channels` is the latent's."""

    out_channels: int = 4


@dataclass(frozen=True)
class ControlConfig(EncoderConfig):
    """The control branch. `pose_embedding_channels` are those of the pose image's embedding,
    which halves the resolution once between each pair: its factor is the VAE's."""

    pose_channels: int = 3
    pose_embedding_channels: tuple[int, ...] = (16, 32, 96, 256)


@dataclass(frozen=True)
class VAEConfig:
    """The KL autoencoder. Its resolution factor is `2 ** (len(channels) - 1)`."""

    image_channels: int = 3
    latent_channels: int = 4
    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_groups: int = 32
    scaling_factor: float = 0.18215

    @property
    def factor(self) -> int:
        """Image pixels per latent pixel, along one side."""
        return 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class CLIPVisionConfig:
    """The image encoder. It yields `(image_size / patch_size) ** 2 + 1` tokens."""

    image_size: int = 224
    patch_size: int = 32
    width: int = 768
    mlp_width: int = 3072
    num_layers: int = 12
    num_heads: int = 12

    @property
    def num_tokens(self) -> int:
        """Tokens of one image, class token included."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class CLIPTextConfig:
    """The text encoder, which only ever sees the empty text here."""

    vocab_size: int = 49408
    max_length: int = 77
    width: int = 768
    mlp_width: int = 3072
    num_layers: int = 12
    num_heads: int = 12


NetworkConfig = UNetConfig | ControlConfig | VAEConfig | CLIPVisionConfig | CLIPTextConfig

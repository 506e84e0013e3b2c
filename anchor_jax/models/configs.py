"""Frozen configs of the five networks. The defaults describe Stable Diffusion 1.5
([latent diffusion](https://arxiv.org/abs/2112.10752)) and CLIP ViT-B/32
([CLIP](https://arxiv.org/abs/2103.00020))."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderConfig:
    """The fields that the UNet's encoder and the control branch have in common.

    Attributes:
        in_channels: channels of the network's input: 4 of the latents; for faces 9, which are
            4 of the latents, 1 of the mask and 4 of the masked image's latents.
        channels: feature channels of each resolution level, finest first.
        layers_per_block: residual blocks per level of the encoder (the decoder has one more).
        cross_attention: for each level, whether its blocks contain spatial transformers.
        num_heads: attention heads, the same number at every level.
        context_dim: width of the tokens that cross-attention attends to.
        norm_groups: groups of each group normalisation.
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
    """Config of the denoising UNet. `out_channels` equals the channels of the latents."""

    out_channels: int = 4


@dataclass(frozen=True)
class ControlConfig(EncoderConfig):
    """Config of the control branch. `pose_embedding_channels` are the channels of the convolutions
    over the pose image. The resolution is halved between neighbours, so that the pose features have
    the size of the latents."""

    pose_channels: int = 3
    pose_embedding_channels: tuple[int, ...] = (16, 32, 96, 256)


@dataclass(frozen=True)
class VAEConfig:
    """Config of the KL autoencoder, which makes images smaller by `factor`."""

    image_channels: int = 3
    latent_channels: int = 4
    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_groups: int = 32
    scaling_factor: float = 0.18215

    @property
    def factor(self) -> int:
        """Image pixels per latent pixel, along one side.

        >>> VAEConfig().factor
        8
        """
        return 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class CLIPVisionConfig:
    """Config of CLIP's image encoder."""

    image_size: int = 224
    patch_size: int = 32
    width: int = 768
    mlp_width: int = 3072
    num_layers: int = 12
    num_heads: int = 12

    @property
    def num_tokens(self) -> int:
        """Tokens of one image: one a patch, and the class token.

        >>> CLIPVisionConfig().num_tokens
        50
        """
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class CLIPTextConfig:
    """Config of CLIP's text encoder, which only encodes the empty text here."""

    vocab_size: int = 49408
    max_length: int = 77
    width: int = 768
    mlp_width: int = 3072
    num_layers: int = 12
    num_heads: int = 12


NetworkConfig = UNetConfig | ControlConfig | VAEConfig | CLIPVisionConfig | CLIPTextConfig

"""The two encoders of [CLIP](https://arxiv.org/abs/2103.00020), which are never trained. The image
encoder's hidden state is the appearance condition of the paper (section 3.1). The text encoder only
encodes the empty text, for the unconditional half of
[classifier-free guidance](https://arxiv.org/abs/2207.12598)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from anchor_jax.models.configs import CLIPTextConfig, CLIPVisionConfig
from anchor_jax.models.layers import Conv, Dense, Embed, LayerNorm, Shaped
from anchor_jax.shapes import Array

_EPSILON = 1e-5


def _layer_norm(name: str, dtype: DTypeLike) -> nn.LayerNorm:
    return LayerNorm(epsilon=_EPSILON, dtype=dtype, use_fast_variance=False, name=name)


class _SelfAttention(nn.Module):
    """Multi-head self-attention. `causal`: a token attends only to itself and earlier ones."""

    num_heads: int
    causal: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]

        def project(name: str) -> Array:
            out = Dense(width, dtype=self.dtype, name=name)(x)
            return out.reshape(*x.shape[:2], self.num_heads, width // self.num_heads)

        out = jax.nn.dot_product_attention(
            project("q_proj"), project("k_proj"), project("v_proj"), is_causal=self.causal
        )
        return Dense(width, dtype=self.dtype, name="out_proj")(out.reshape(x.shape))


class _MLP(nn.Module):
    """Two linear layers with x sigmoid(1.702 x), CLIP's approximation of GELU, between them."""

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = Dense(self.width, dtype=self.dtype, name="fc1")(x)
        return Dense(x.shape[-1], dtype=self.dtype, name="fc2")(h * nn.sigmoid(1.702 * h))


class _Layer(nn.Module):
    """Self-attention and MLP, each after a layer norm and around a shortcut."""

    config: CLIPVisionConfig | CLIPTextConfig
    causal: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        attention = _SelfAttention(self.config.num_heads, self.causal, self.dtype, name="self_attn")
        x = x + attention(_layer_norm("layer_norm1", self.dtype)(x))
        mlp = _MLP(self.config.mlp_width, self.dtype, name="mlp")
        return x + mlp(_layer_norm("layer_norm2", self.dtype)(x))


class _Layers(nn.Module):
    """All layers of an encoder."""

    config: CLIPVisionConfig | CLIPTextConfig
    causal: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.config.num_layers):
            x = _Layer(self.config, self.causal, self.dtype, name=f"layers_{i}")(x)
        return x


class _VisionEmbeddings(Shaped, nn.Module):
    """A class token and an image's patches, with their positions: (b, h, w, 3) -> (b, s, c)."""

    config: CLIPVisionConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pixels: Array) -> Array:
        c = self.config
        patch = (c.patch_size, c.patch_size)
        patches = Conv(
            c.width, patch, patch, "VALID", use_bias=False, dtype=self.dtype, name="patch_embedding"
        )(pixels)
        token = self.param("class_embedding", nn.initializers.normal(), (c.width,))
        token = jnp.broadcast_to(token.astype(self.dtype), (len(pixels), 1, c.width))
        x = jnp.concatenate([token, patches.reshape(len(pixels), -1, c.width)], 1)
        positions = Embed(c.num_tokens, c.width, dtype=self.dtype, name="position_embedding")
        return x + positions(jnp.arange(c.num_tokens))


class _VisionTransformer(nn.Module):
    """The image encoder. It is a module inside `CLIPVision`, because checkpoints name it so."""

    config: CLIPVisionConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pixels: Array) -> tuple[Array, Array]:
        x = _VisionEmbeddings(self.config, self.dtype, name="embeddings")(pixels)
        x = _layer_norm("pre_layrnorm", self.dtype)(x)  # the checkpoints' spelling
        x = _Layers(self.config, dtype=self.dtype, name="encoder")(x)
        return x, _layer_norm("post_layernorm", self.dtype)(x[:, 0])


class CLIPVision(nn.Module):
    """CLIP's image encoder."""

    config: CLIPVisionConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, pixels: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b s c"], Float[Array, "b c"]]:
        """Encode normalised pixels of the config's image size.

        Returns:
            The appearance tokens, which are the last hidden state before the last layer norm, class
            token first; and the normalised class token.
        """
        return _VisionTransformer(self.config, self.dtype, name="vision_model")(pixels)


class _TextEmbeddings(nn.Module):
    """Tokens with their positions: (b, s) -> (b, s, c)."""

    config: CLIPTextConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        c = self.config
        tokens = Embed(c.vocab_size, c.width, dtype=self.dtype, name="token_embedding")
        positions = Embed(c.max_length, c.width, dtype=self.dtype, name="position_embedding")
        return tokens(ids) + positions(jnp.arange(ids.shape[1]))


class _TextTransformer(nn.Module):
    """The text encoder. It is a module inside `CLIPText`, because checkpoints name it so."""

    config: CLIPTextConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        x = _TextEmbeddings(self.config, self.dtype, name="embeddings")(ids)
        x = _Layers(self.config, causal=True, dtype=self.dtype, name="encoder")(x)
        return _layer_norm("final_layer_norm", self.dtype)(x)


class CLIPText(nn.Module):
    """CLIP's text encoder. Its self-attention is causal."""

    config: CLIPTextConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "b s"]) -> Float[Array, "b s c"]:
        """Encode at most `max_length` token ids. Returns the normalised last hidden state."""
        return _TextTransformer(self.config, self.dtype, name="text_model")(ids)

"""CLIP's two encoders (frozen). The image encoder's hidden state is the appearance condition of the
paper (section 3.1); the text encoder only provides the unconditional half of guidance."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from anchor_jax.models.configs import CLIPTextConfig, CLIPVisionConfig
from anchor_jax.shapes import Array

EPSILON = 1e-5


def layer_norm(name: str, dtype: DTypeLike) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=EPSILON, dtype=dtype, use_fast_variance=False, name=name)


class SelfAttention(nn.Module):
    num_heads: int
    causal: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]

        def project(name: str) -> Array:
            out = nn.Dense(width, dtype=self.dtype, name=name)(x)
            return out.reshape(*x.shape[:2], self.num_heads, width // self.num_heads)

        out = jax.nn.dot_product_attention(
            project("q_proj"), project("k_proj"), project("v_proj"), is_causal=self.causal
        )
        return nn.Dense(width, dtype=self.dtype, name="out_proj")(out.reshape(x.shape))


class MLP(nn.Module):
    """Two linear layers around x sigmoid(1.702 x)."""

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.Dense(self.width, dtype=self.dtype, name="fc1")(x)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="fc2")(h * nn.sigmoid(1.702 * h))


class Layer(nn.Module):
    config: CLIPVisionConfig | CLIPTextConfig
    causal: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        attention = SelfAttention(self.config.num_heads, self.causal, self.dtype, name="self_attn")
        x = x + attention(layer_norm("layer_norm1", self.dtype)(x))
        mlp = MLP(self.config.mlp_width, self.dtype, name="mlp")
        return x + mlp(layer_norm("layer_norm2", self.dtype)(x))


class Layers(nn.Module):
    config: CLIPVisionConfig | CLIPTextConfig
    causal: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.config.num_layers):
            x = Layer(self.config, self.causal, self.dtype, name=f"layers_{i}")(x)
        return x


class VisionEmbeddings(nn.Module):
    config: CLIPVisionConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pixels: Array) -> Array:
        c = self.config
        patch = (c.patch_size, c.patch_size)
        patches = nn.Conv(
            c.width, patch, patch, "VALID", use_bias=False, dtype=self.dtype, name="patch_embedding"
        )(pixels)
        token = self.param("class_embedding", nn.initializers.normal(), (c.width,))
        token = jnp.broadcast_to(token.astype(self.dtype), (len(pixels), 1, c.width))
        x = jnp.concatenate([token, patches.reshape(len(pixels), -1, c.width)], 1)
        positions = nn.Embed(c.num_tokens, c.width, dtype=self.dtype, name="position_embedding")
        return x + positions(jnp.arange(c.num_tokens))


class VisionTransformer(nn.Module):
    config: CLIPVisionConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pixels: Array) -> tuple[Array, Array]:
        x = VisionEmbeddings(self.config, self.dtype, name="embeddings")(pixels)
        x = layer_norm("pre_layrnorm", self.dtype)(x)  # spelled so in every checkpoint
        x = Layers(self.config, dtype=self.dtype, name="encoder")(x)
        return x, layer_norm("post_layernorm", self.dtype)(x[:, 0])


class CLIPVision(nn.Module):
    """Images to tokens."""

    config: CLIPVisionConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, pixels: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b s c"], Float[Array, "b c"]]:
        """Encode normalised pixels of the config's image size.

        Returns:
            The last hidden state, class token first, before the last layer norm: the appearance
            tokens. And the normalised class token.
        """
        return VisionTransformer(self.config, self.dtype, name="vision_model")(pixels)


class TextEmbeddings(nn.Module):
    config: CLIPTextConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        c = self.config
        tokens = nn.Embed(c.vocab_size, c.width, dtype=self.dtype, name="token_embedding")
        positions = nn.Embed(c.max_length, c.width, dtype=self.dtype, name="position_embedding")
        return tokens(ids) + positions(jnp.arange(ids.shape[1]))


class TextTransformer(nn.Module):
    config: CLIPTextConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        x = TextEmbeddings(self.config, self.dtype, name="embeddings")(ids)
        x = Layers(self.config, causal=True, dtype=self.dtype, name="encoder")(x)
        return layer_norm("final_layer_norm", self.dtype)(x)


class CLIPText(nn.Module):
    """Token ids to tokens, each seeing those before it."""

    config: CLIPTextConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "b s"]) -> Float[Array, "b s c"]:
        """Encode at most `max_length` ids to the normalised last hidden state."""
        return TextTransformer(self.config, self.dtype, name="text_model")(ids)

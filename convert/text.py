"""The embedding of the empty text: guidance's unconditional half, computed once."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from anchor_jax.checkpoint.parameters import Lazy
from anchor_jax.errors import AnchorError
from anchor_jax.models import CLIPTextConfig, build
from anchor_jax.shapes import Params


def empty_text(
    config: CLIPTextConfig, params: Params, num_tokens: int, ends: tuple[int, int]
) -> np.ndarray:
    """The text encoder's last hidden state for the empty text, whose ids are begin, end, end, ...

    Args:
        config: of the text encoder.
        params: its parameters, arrays or `Lazy`.
        num_tokens: the length to pad to.
        ends: the ids of begin and end.

    Returns:
        float32 (num_tokens, width).
    """
    begin, end = ends
    ids = jnp.array([[begin] + [end] * (num_tokens - 1)], jnp.int32)
    params = jax.tree.map(
        lambda x: jnp.asarray(x.read() if isinstance(x, Lazy) else x, jnp.float32), params
    )
    return np.asarray(_encode_text(config, params, ids)[0])


@partial(jax.jit, static_argnums=0)
def _encode_text(config: CLIPTextConfig, params: Params, ids: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        hidden = build(config).apply({"params": params}, ids)
    assert isinstance(hidden, jax.Array)
    return hidden


def begin_and_end(tokenizer: dict[str, bytes], config: CLIPTextConfig) -> tuple[int, int]:
    """The ids of begin and end: what the tokenizer says or, without one, the last two, which CLIP
    made them. (The ids in older config files are wrong.)"""
    try:
        vocab = json.loads(tokenizer["vocab.json"])
        ends = vocab["<|startoftext|>"], vocab["<|endoftext|>"]
    except KeyError:
        ends = config.vocab_size - 2, config.vocab_size - 1
    except (ValueError, TypeError, RecursionError):
        raise AnchorError("tokenizer/vocab.json of the base is not a JSON object") from None
    if not all(type(end) is int and 0 <= end < config.vocab_size for end in ends):
        raise AnchorError(f"tokenizer/vocab.json of the base has ids {ends} for begin and end")
    return ends

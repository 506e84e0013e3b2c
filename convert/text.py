"""Computes the embedding of the empty text, the unconditional input of guidance.

Classifier-free guidance: https://arxiv.org/abs/2207.12598. Conversion stores the embedding in the
ANCHOR, so that generation needs no text encoder.
"""

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
    """Compute the text encoder's last hidden state for the empty text: ids begin, end, end, ...

    Args:
        config: the text encoder's config.
        params: its parameters, arrays or `Lazy`.
        num_tokens: the length to pad to.
        ends: the ids of the tokens begin and end.

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
    """Return the ids of the tokens begin and end.

    They come from the tokenizer's vocab.json. Without that file they are the last two ids, as in
    CLIP (https://arxiv.org/abs/2103.00020). The ids in older config files are wrong and not used.

    Raises:
        AnchorError: vocab.json is not a JSON object, or its ids are not in the vocabulary.
    """
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

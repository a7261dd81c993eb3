"""Greedy continuation and reading of a decoder's lines with the keys and values of earlier tokens kept.

What is said is what the decoder says of the whole line at once; only the work is less. Prompts of different lengths lie
side by side, filled up at their ends: a token sees places up to its own, and what filled up a line is written over
before any token sees it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sublim_jax.core.types import Params
from sublim_jax.nets import Decoder
from sublim_jax.nets.decoder import Attend, Block, parts, weighed


class KVCache(NamedTuple):
    """What is kept of lines read so far.

    cache     block -> keys and values, [n, capacity, heads * size] each
    features  [n, width]  what the unembedding reads at the last token
    length    [n]         tokens read
    """

    cache: dict[str, tuple[Array, Array]]
    features: Float[Array, "n width"]
    length: Int[Array, " n"]


def prefill(
    net: Decoder, params: Params, tokens: Int[Array, "n length"], length: Int[Array, " n"], capacity: int
) -> KVCache:
    """Lines of tokens read from their beginning; row i has `length[i]` of them. Raises nothing: capacity >= length."""
    shape = len(tokens), capacity, (net.kv_heads or net.heads) * (net.width // net.heads)
    empty = {f"block_{index}": (jnp.zeros(shape), jnp.zeros(shape)) for index in range(net.layers)}
    cache, features = _further(net, params, empty, tokens, jnp.zeros_like(length))
    last = jnp.take_along_axis(features, (length - 1)[:, None, None], axis=1)[:, 0]
    return KVCache(cache, last, length)


def greedy_decode(
    net: Decoder, params: Params, kept: KVCache, allowed: Bool[Array, "said vocabulary"]
) -> Int[Array, "n said"]:
    """The likeliest of the tokens allowed at each of the next places, each given those before it."""

    def step(kept: KVCache, allowed: Array) -> tuple[KVCache, Array]:
        said = jnp.where(allowed[None], unembedded(net, params, kept.features), -jnp.inf).argmax(-1)
        cache, features = _further(net, params, kept.cache, said[:, None], kept.length)
        return KVCache(cache, features[:, -1], kept.length + 1), said

    return jax.lax.scan(step, kept, allowed)[1].T


def teacher_forced(
    net: Decoder, params: Params, kept: KVCache, tokens: Int[Array, "n said"]
) -> Float[Array, "n said width"]:
    """What the unembedding reads where each of the tokens is about to be said, along lines that go on with them."""
    _, features = _further(net, params, kept.cache, tokens[:, :-1], kept.length)
    return jnp.concatenate([kept.features[:, None], features], axis=1)


def unembedded(net: Decoder, params: Params, features: Float[Array, "... width"]) -> Float[Array, "... vocabulary"]:
    """Logits of features."""
    return features @ (params["embed"]["tokens"].T if net.tied else params["unembed"]["kernel"])


def _further(
    net: Decoder,
    params: Params,
    cache: dict[str, tuple[Array, Array]],
    tokens: Int[Array, "n length"],
    before: Int[Array, " n"],
) -> tuple[dict[str, tuple[Array, Array]], Float[Array, "n length width"]]:
    """The cache with these tokens in it, and the features of each; row i had `before[i]` tokens before them."""
    places = before[:, None] + jnp.arange(tokens.shape[1])[None]
    rows = jnp.arange(len(tokens))[:, None]
    after: dict[str, tuple[Array, Array]] = {}

    def attend(block: Block, query: Array, key: Array, value: Array) -> Array:
        q, k, v = parts(block, query, key, value, places)
        new = (x.swapaxes(1, 2).reshape(key.shape) for x in (k, v))
        kept = [old.at[rows, places].set(x) for old, x in zip(cache[str(block.name)], new, strict=True)]
        after[str(block.name)] = kept[0], kept[1]
        keys, values = (x.reshape(*x.shape[:2], -1, q.shape[-1]).swapaxes(1, 2) for x in kept)
        seen = jnp.arange(keys.shape[2])[None, None] <= places[:, :, None]
        return weighed(block, q, keys, values, seen)

    attending: Attend = attend
    variables: Any = {"params": params}
    out: Any = net.apply(variables, tokens, None, attending)
    return after, out.features

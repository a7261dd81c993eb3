"""Decoding and scoring with a cache of keys and values.

Results equal those of the decoder on the whole sequence at lower cost. Prompts of different lengths are batched with
padding at their ends: a token attends to positions up to its own, and padding is overwritten before it is attended to.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sublim_jax.core.types import Params
from sublim_jax.nets import Decoder
from sublim_jax.nets.decoder import Block, Taps, parts, weighed

Cache = dict[str, tuple[Array, Array]]  # block -> keys and values, [n, capacity, heads * size] each


class KVCache(NamedTuple):
    """State of decoding after some tokens.

    Attributes:
        cache: keys and values of the tokens.
        features: [n, width], input of the unembedding at the last token.
        length: [n], number of tokens.
    """

    cache: Cache
    features: Float[Array, "n width"]
    length: Int[Array, " n"]


def prefill(
    net: Decoder,
    params: Params,
    tokens: Int[Array, "n length"],
    length: Int[Array, " n"],
    capacity: int,
    taps: Taps | None = None,
) -> KVCache:
    """Process token sequences from the beginning; row i has `length[i]` tokens, at most `capacity`.

    `taps` are added to the residual stream of all tokens, see `Decoder`.
    """
    shape = len(tokens), capacity, (net.kv_heads or net.heads) * (net.width // net.heads)
    zeros = jnp.zeros(shape, params["embed"]["tokens"].dtype)
    empty = {f"block_{index}": (zeros, zeros) for index in range(net.layers)}
    return _last(*_further(net, params, empty, tokens, jnp.zeros_like(length), taps), jnp.zeros_like(length), length)


def extend(
    net: Decoder,
    params: Params,
    prefix: KVCache | None,
    tokens: Int[Array, "n length"],
    length: Int[Array, " n"],
    room: int,
    taps: Taps | None = None,
) -> KVCache:
    """Process sequences that all begin with one prefix, of which `prefix` is the state of one row; None = empty.

    `tokens` and `length` are of what follows the prefix; after it there is room for `room` tokens.
    """
    if prefix is None:
        return prefill(net, params, tokens, length, room, taps)

    def wider(array: Array) -> Array:
        repeated = jnp.repeat(array, len(tokens), axis=0)
        return jnp.pad(repeated, ((0, 0), (0, room), (0, 0)))

    cache, before = jax.tree.map(wider, prefix.cache), jnp.repeat(prefix.length, len(tokens))
    return _last(*_further(net, params, cache, tokens, before, taps), before, length)


def _last(cache: Cache, features: Array, before: Array, length: Array) -> KVCache:
    """The state after the last of `length` tokens of each row."""
    last = jnp.take_along_axis(features, (length - 1)[:, None, None], axis=1)[:, 0]
    return KVCache(cache, last, before + length)


def append(net: Decoder, params: Params, state: KVCache, token: Int[Array, " n"], taps: Taps | None = None) -> KVCache:
    """Process one more token of each row."""
    cache, features = _further(net, params, state.cache, token[:, None], state.length, taps)
    return KVCache(cache, features[:, -1], state.length + 1)


def greedy_decode(
    net: Decoder, params: Params, state: KVCache, allowed: Bool[Array, "steps vocabulary"]
) -> Int[Array, "n steps"]:
    """Append the most likely allowed token at each of the next positions."""

    def step(state: KVCache, allowed: Array) -> tuple[KVCache, Array]:
        token = jnp.where(allowed[None], unembedded(net, params, state.features), -jnp.inf).argmax(-1)
        return append(net, params, state, token), token

    return jax.lax.scan(step, state, allowed)[1].T


def teacher_forced(
    net: Decoder, params: Params, state: KVCache, tokens: Int[Array, "n steps"], taps: Taps | None = None
) -> Float[Array, "n steps width"]:
    """Compute the features that predict each of `tokens` along a given continuation."""
    if tokens.shape[1] == 1:
        return state.features[:, None]
    _, features = _further(net, params, state.cache, tokens[:, :-1], state.length, taps)
    return jnp.concatenate([state.features[:, None], features], axis=1)


def unembedded(net: Decoder, params: Params, features: Float[Array, "... width"]) -> Float[Array, "... vocabulary"]:
    """Compute the logits of features."""
    return features @ (params["embed"]["tokens"].T if net.tied else params["unembed"]["kernel"])


def _further(
    net: Decoder,
    params: Params,
    cache: Cache,
    tokens: Int[Array, "n length"],
    before: Int[Array, " n"],
    taps: Taps | None = None,
) -> tuple[Cache, Float[Array, "n length width"]]:
    """The cache extended by these tokens, and their features; row i had `before[i]` tokens before them."""
    positions = before[:, None] + jnp.arange(tokens.shape[1])[None]
    rows = jnp.arange(len(tokens))[:, None]
    after: Cache = {}

    def attend(block: Block, query: Array, key: Array, value: Array) -> Array:
        q, k, v = parts(block, query, key, value, positions)
        new = (x.swapaxes(1, 2).reshape(key.shape) for x in (k, v))
        entries = [old.at[rows, positions].set(x) for old, x in zip(cache[str(block.name)], new, strict=True)]
        after[str(block.name)] = entries[0], entries[1]
        keys, values = (x.reshape(*x.shape[:2], -1, q.shape[-1]).swapaxes(1, 2) for x in entries)
        seen = jnp.arange(keys.shape[2])[None, None] <= positions[:, :, None]
        return weighed(block, q, keys, values, seen)

    variables: Any = {"params": params}
    out: Any = net.apply(variables, tokens, taps, attend)
    return after, out.features

"""Decoding and scoring with a cache of keys and values.

Results equal those of the decoder on the whole sequence at lower cost. A cache is a list of segments, for instance a
system prompt, the prompts after it, and the answers to each: a row of a segment may serve several rows of the batch, so
that shared tokens are stored and read once. Prompts of different lengths are padded at their ends; padding is not
attended to.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sublim_jax.core.types import Params
from sublim_jax.nets import Decoder
from sublim_jax.nets.decoder import Block, Past, Taps, causal, parts, weighed

Entries = dict[str, tuple[Array, Array]]  # block -> keys and values, [rows, group, capacity, size] each


class Segment(NamedTuple):
    """Keys and values of consecutive tokens. Each row belongs to as many consecutive rows of the batch.

    Attributes:
        entries: keys and values of each block.
        length: [rows], number of tokens; what follows them is not attended to.
    """

    entries: Entries
    length: Int[Array, " rows"]

    def past(self, block: str) -> Past:
        """Return what later tokens attend to in a block."""
        keys, values = self.entries[block]
        return keys, values, jnp.arange(keys.shape[2])[None, None] < self.length[:, None, None]


class KVCache(NamedTuple):
    """State of decoding after some tokens.

    Attributes:
        segments: keys and values of the tokens, in order.
        features: [n, width], input of the unembedding at the last token.
        length: [n], number of tokens.
    """

    segments: tuple[Segment, ...]
    features: Float[Array, "n width"]
    length: Int[Array, " n"]


def prefill(
    net: Decoder,
    params: Params,
    tokens: Int[Array, "n length"],
    length: Int[Array, " n"],
    taps: Taps | None = None,
    prefix: KVCache | None = None,
) -> KVCache:
    """Process token sequences, of which row i has `length[i]` tokens.

    `prefix` is the state after the tokens that precede them, with one row for as many consecutive sequences each.
    `taps` are added to the residual stream of all tokens, see `Decoder`.
    """
    segments = prefix.segments if prefix else ()
    before = jnp.repeat(prefix.length, len(tokens) // len(prefix.length)) if prefix else jnp.zeros_like(length)
    entries, features = _further(net, params, segments, tokens, before, _causal, taps)
    last = jnp.take_along_axis(features, (length - 1)[:, None, None], axis=1)[:, 0]
    return KVCache((*segments, Segment(entries, length)), last, before + length)


def with_room(state: KVCache, room: int, copies: int = 1) -> KVCache:
    """Return the state of `copies` continuations of each row, with room for `room` tokens of each."""
    n = len(state.length) * copies

    def empty(array: Array) -> Array:
        return jnp.zeros((n, array.shape[1], room, array.shape[3]), array.dtype)

    segment = Segment(jax.tree.map(empty, state.segments[-1].entries), jnp.zeros(n, jnp.int32))
    features, length = (jnp.repeat(array, copies, axis=0) for array in (state.features, state.length))
    return KVCache((*state.segments, segment), features, length)


def append(net: Decoder, params: Params, state: KVCache, token: Int[Array, " n"], taps: Taps | None = None) -> KVCache:
    """Process one more token of each row of a state `with_room`."""
    *earlier, segment = state.segments
    place = segment.length[0]  # all rows have equally many

    def write(block: str, k: Array, v: Array) -> Past:
        pairs = zip(segment.entries[block], (k, v), strict=True)
        keys, values = (jax.lax.dynamic_update_slice_in_dim(old, new, place, axis=2) for old, new in pairs)
        return keys, values, (jnp.arange(keys.shape[2]) <= place)[None, None]

    entries, features = _further(net, params, earlier, token[:, None], state.length, write, taps)
    return KVCache((*earlier, Segment(entries, segment.length + 1)), features[:, -1], state.length + 1)


def greedy_decode(
    net: Decoder, params: Params, state: KVCache, allowed: Bool[Array, "steps vocabulary"]
) -> Int[Array, "n steps"]:
    """Continue with the most likely allowed token at each of the next positions."""

    def step(state: KVCache, allowed: Array) -> tuple[KVCache, Array]:
        token = jnp.where(allowed[None], unembedded(net, params, state.features), -jnp.inf).argmax(-1)
        return append(net, params, state, token), token

    return jax.lax.scan(step, with_room(state, len(allowed)), allowed)[1].T


def teacher_forced(
    net: Decoder, params: Params, state: KVCache, tokens: Int[Array, "n steps"], taps: Taps | None = None
) -> Float[Array, "n steps width"]:
    """Compute the features that predict each of `tokens` along a given continuation."""
    if tokens.shape[1] == 1:
        return state.features[:, None]
    _, features = _further(net, params, state.segments, tokens[:, :-1], state.length, _causal, taps)
    return jnp.concatenate([state.features[:, None], features], axis=1)


def log_probabilities(
    net: Decoder, params: Params, state: KVCache, tokens: Int[Array, "n steps"], taps: Taps | None = None
) -> Float[Array, "n steps"]:
    """Compute the log-probability, in nats, of each of `tokens` along a given continuation."""
    logits = unembedded(net, params, teacher_forced(net, params, state, tokens, taps))
    return jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]


def unembedded(net: Decoder, params: Params, features: Float[Array, "... width"]) -> Float[Array, "... vocabulary"]:
    """Compute the logits of features, in float32 whatever the type of the weights."""
    matrix = params["embed"]["tokens"].T if net.tied else params["unembed"]["kernel"]
    return jnp.matmul(features, matrix, preferred_element_type=jnp.float32)


def _causal(block: str, k: Array, v: Array) -> Past:
    """Tokens attend to each other in order."""
    del block
    return k, v, causal(k.shape[2])


def _further(
    net: Decoder,
    params: Params,
    segments: Sequence[Segment],
    tokens: Int[Array, "n length"],
    before: Int[Array, " n"],
    stored: Callable[[str, Array, Array], Past],
    taps: Taps | None,
) -> tuple[Entries, Float[Array, "n length width"]]:
    """Entries and features of tokens after some segments; row i had `before[i]` tokens before them.

    `stored` (block, keys, values of the tokens) returns what the tokens attend to besides the segments.
    """
    positions = before[:, None] + jnp.arange(tokens.shape[1])[None]
    entries: Entries = {}

    def attend(block: Block, query: Array, key: Array, value: Array) -> Array:
        q, k, v = parts(block, query, key, value, positions)
        name = str(block.name)
        own = stored(name, k, v)
        entries[name] = own[:2]
        return weighed(block, q, *(segment.past(name) for segment in segments), own)

    variables: Any = {"params": params}
    out: Any = net.apply(variables, tokens, taps, attend)
    return entries, out.features

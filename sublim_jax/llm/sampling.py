"""Answers of a model to many prompts: sampled or greedy, in batches with a cache of keys and values.

The tokens that all prompts begin with, for instance those of a system prompt, are computed once, and so is a prompt
with several answers. Prompts of a batch are padded at their ends, so that a batch has the results of its prompts one by
one. Random numbers are a function of the prompt's number, the answer's number and the position: batches of another size
draw the same.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Params
from sublim_jax.llm import sharding
from sublim_jax.nets import Decoder
from sublim_jax.nets.decoder import Taps
from sublim_jax.pretrained import kv_cache
from sublim_jax.pretrained.kv_cache import KVCache
from sublim_jax.pretrained.personas import filled

Weights = tuple[Params, Taps | None]
_BLOCK = 256  # tokens: the sums of a large vocabulary cost as much as a block of the model
_PREFIX = 16  # a common prefix has a multiple of so many tokens: one program for system prompts of similar lengths


class Model(NamedTuple):
    """A model that writes.

    Attributes:
        net, params: The decoder.
        end: The token that ends an answer.
        taps: Values that are added to the residual stream, see `Decoder`; None = nothing.
    """

    net: Decoder
    params: Params
    end: int
    taps: Taps | None = None


class Sampling(NamedTuple):
    """How answers are written.

    Attributes:
        temperature: Of the softmax; 0 = the most likely token.
        tokens: Most tokens of an answer, with its end.
        batch: Answers written at once.
        top: How many of the most likely tokens are kept with their log-probabilities; 0 = none.
    """

    temperature: float = 1.0
    tokens: int = 64
    batch: int = 64
    top: int = 0


class Answers(NamedTuple):
    """Answers to some prompts.

    Attributes:
        tokens: Tokens of each answer, without its end.
        finished: Whether the answer ended before the most tokens were written.
        top_tokens, top_nats: The most likely tokens at each place and their log-probabilities at temperature 1, the
            place of the end included.
    """

    tokens: list[tuple[int, ...]]
    finished: list[bool]
    top_tokens: list[Int[np.ndarray, "length top"]]
    top_nats: list[Float[np.ndarray, "length top"]]


class _Written(NamedTuple):
    """What a batch has written."""

    state: KVCache
    tokens: Int[Array, "n steps"]
    top_tokens: Int[Array, "n steps top"]
    top_nats: Float[Array, "n steps top"]
    ended: Bool[Array, " n"]
    step: Int[Array, ""]


def write(
    model: Model,
    prompts: Sequence[Sequence[int]],
    key: Key[Array, ""],
    sampling: Sampling,
    *,
    numbers: Sequence[tuple[int, int]] | None = None,
    allowed: Bool[np.ndarray, "steps vocabulary"] | None = None,
    report: Callable[[int, int], None] = lambda answers, tokens: None,
) -> Answers:
    """Write one answer to each prompt.

    Args:
        model: The model.
        prompts: Tokens of each prompt; a prompt with several answers occurs several times.
        key: Of the random numbers.
        sampling: How.
        numbers: (number of the request, number of the answer) of each prompt; by default the place in the list, and 0.
        allowed: Tokens that may be written at each place, after which the answer ends; None = all.
        report: Called after each batch with the numbers of its answers and their tokens.

    Raises:
        ConfigError: Prompt and answer have more tokens than the model takes.
    """
    if allowed is not None:
        ending = np.zeros((1, allowed.shape[1]), bool)
        ending[0, model.end] = True
        allowed, sampling = np.concatenate([allowed, ending]), sampling._replace(tokens=len(allowed) + 1)
    longest = max(map(len, prompts)) + sampling.tokens
    if longest > model.net.length:
        needed = f"prompt and answer have {longest} tokens, the model takes {model.net.length}"
        raise ConfigError(f"config.rows.tokens={sampling.tokens}: {needed}")
    numbers = numbers or [(index, 0) for index in range(len(prompts))]
    weights, shared = (model.params, model.taps), common_prefix(prompts) // _PREFIX * _PREFIX
    prefix = prefilled(model, prompts[0][:shared]) if shared else None
    found: list[Any] = [None] * len(prompts)
    width = filled(prompts)[0].shape[1] - shared
    for chosen in _batches(prompts, sampling.batch):
        lines = filled([prompts[of_prompt[0]][shared:] for of_prompt in chosen], width)
        order = [index for of_prompt in chosen for index in of_prompt]
        lines, row_keys = sharding.place_rows(
            model.params, (lines, _row_keys(key, np.array([numbers[index] for index in order], np.uint32)))
        )
        written = _write(model.net, sampling, weights, prefix, lines, (row_keys, np.int32(model.end), allowed))
        new = [index for index in dict.fromkeys(order) if found[index] is None]
        for index in new:
            found[index] = _answer(written, order.index(index), model.end)
        report(len(new), sum(len(found[index][0]) for index in new))
    return Answers(*(list(column) for column in zip(*found, strict=True)))


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all prompts begin with; every prompt has at least one more."""
    first, shortest = prompts[0], min(map(len, prompts)) - 1
    for place in range(shortest):
        if any(prompt[place] != first[place] for prompt in prompts):
            return place
    return shortest


def _batches(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[list[int]]]:
    """Batches of some prompts of similar lengths, each with as many of its answers; what is missing is repeated."""
    places: dict[tuple[int, ...], list[int]] = {}
    for index in sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index)):
        places.setdefault(tuple(prompts[index]), []).append(index)
    each = min(size, max(map(len, places.values())))
    parts = [
        of_prompt[start : start + each] for of_prompt in places.values() for start in range(0, len(of_prompt), each)
    ]
    whole = [[*part, *[part[-1]] * (each - len(part))] for part in parts]
    together = size // each
    for start in range(0, len(whole), together):
        batch = whole[start : start + together]
        yield [*batch, *[batch[-1]] * (together - len(batch))]


def prefilled(model: Model, tokens: Sequence[int]) -> KVCache:
    """Process the tokens that some prompts begin with."""
    return _prefill(model.net, (model.params, model.taps), np.array([tokens], np.int32))


def _answer(written: _Written, place: int, end: int) -> tuple[tuple[int, ...], bool, np.ndarray, np.ndarray]:
    """The tokens of one answer up to its end, whether it has one, and the most likely tokens."""
    tokens = np.asarray(written.tokens[place])[: int(written.step)]
    ends = np.flatnonzero(tokens == end)
    stop, finished = (int(ends[0]), True) if len(ends) else (len(tokens), False)
    top, nats = (np.asarray(array[place])[: stop + finished] for array in (written.top_tokens, written.top_nats))
    return tuple(tokens[:stop].tolist()), finished, top, nats


@functools.partial(jax.jit, static_argnums=0)
def _prefill(net: Decoder, weights: Weights, tokens: Array) -> KVCache:
    length = jnp.full(len(tokens), tokens.shape[1], jnp.int32)
    return kv_cache.prefill(net, weights[0], tokens, length, weights[1])


@jax.jit
def _row_keys(key: Array, numbers: UInt32[Array, "n 2"]) -> Array:
    return jax.vmap(lambda number: keys.at(key, keys.SAMPLING, number[0], number[1]))(numbers)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _write(
    net: Decoder,
    sampling: Sampling,
    weights: Weights,
    prefix: KVCache | None,
    lines: tuple[Int[Array, "prompts length"], Int[Array, " prompts"]],
    choice: tuple[Array, Array, Bool[Array, "steps vocabulary"] | None],
) -> _Written:
    """Write equally many answers to each prompt of a batch: a prefix that all prompts have, and the rest of each.

    `choice` has the key of each answer, the token that ends one, and the tokens that are allowed at each step.
    """
    (params, taps), (row_keys, end, allowed), steps, n = weights, choice, sampling.tokens, len(choice[0])
    of_prompts = kv_cache.prefill(net, params, *lines, taps, prefix)
    state = kv_cache.with_room(of_prompts, steps, n // len(lines[0]))

    def go_on(written: _Written) -> Array:
        return (written.step < steps) & ~written.ended.all()

    def append(written: _Written) -> _Written:
        logits = kv_cache.unembedded(net, params, written.state.features)
        masked = logits if allowed is None else jnp.where(allowed[written.step][None], logits, -jnp.inf)
        chosen = jnp.where(written.ended, end, _choose(masked, row_keys, written.step, sampling.temperature))
        nats, top = jax.lax.top_k(jax.nn.log_softmax(logits), sampling.top) if sampling.top else _nothing(n)
        return _Written(
            kv_cache.append(net, params, written.state, chosen, taps),
            written.tokens.at[:, written.step].set(chosen),
            written.top_tokens.at[:, written.step].set(top),
            written.top_nats.at[:, written.step].set(nats),
            written.ended | (chosen == end),
            written.step + 1,
        )

    empty = jnp.zeros((n, steps), jnp.int32)
    tops = jnp.zeros((n, steps, sampling.top), jnp.int32), jnp.zeros((n, steps, sampling.top))
    return jax.lax.while_loop(go_on, append, _Written(state, empty, *tops, jnp.zeros(n, bool), jnp.int32(0)))


def _nothing(n: int) -> tuple[Array, Array]:
    return jnp.zeros((n, 0)), jnp.zeros((n, 0), jnp.int32)


def _choose(logits: Float[Array, "n vocabulary"], row_keys: Array, step: Array, temperature: float) -> Int[Array, " n"]:
    """The most likely token, or one by inverting the distribution function: one random number a token."""
    if temperature == 0:
        return logits.argmax(-1).astype(jnp.int32)
    chances = jax.nn.softmax(logits / temperature)
    drawn = jax.vmap(lambda key: jax.random.uniform(keys.at(key, step)))(row_keys)
    return jax.vmap(_inverted)(chances, drawn)


def _inverted(chances: Float[Array, " vocabulary"], drawn: Float[Array, ""]) -> Int[Array, ""]:
    """The token at which the distribution function passes a number: first its block, then the token in the block."""
    blocks = jnp.pad(chances, (0, -len(chances) % _BLOCK)).reshape(-1, _BLOCK)
    sums = blocks.sum(1)
    rising = jnp.cumsum(sums)
    threshold = drawn * rising[-1]  # instead of `drawn`, since sums of float32 end near 1
    block = (rising <= threshold).sum()
    inside = jnp.cumsum(blocks[block])
    rest = jnp.clip(threshold - (rising - sums)[block], 0, jnp.nextafter(inside[-1], 0.0))  # whatever is rounded
    return (block * _BLOCK + (inside <= rest).sum()).astype(jnp.int32)

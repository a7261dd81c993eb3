"""Where a phase's inputs come from: every batch is a pure function of (key, step)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from sublim_jax import keys
from sublim_jax.types import Bank, Knobs

_ROUNDS = 8  # Luby and Rackoff need 4 for a pseudo-random permutation; small domains want a margin


def uniform(
    key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, bank: Bank
) -> tuple[Float[Array, "batch height width"], None]:
    """Fresh U(-1, 1) noise, not normalised; repeats after `knobs.pool` batches. Source: Brockers et al. 2026."""
    return keys.uniform(keys.at(key, step % knobs.pool), (size, *bank.x.shape[1:]), -1.0, 1.0), None


def gaussian(
    key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, bank: Bank
) -> tuple[Float[Array, "batch height width"], None]:
    """Fresh standard normal noise; repeats after `knobs.pool` batches."""
    return keys.normal(keys.at(key, step % knobs.pool), (size, *bank.x.shape[1:])), None


def epochs(
    key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, bank: Bank
) -> tuple[Float[Array, "batch height width"], Int[Array, " batch"]]:
    """The bank's images in a new order every epoch, without replacement.

    The last batch of an epoch is partial: it is filled up with rows labelled -1, which have no weight in the loss.
    """
    del knobs
    n = len(bank.y)
    epoch, batch = jnp.divmod(step, steps_per_epoch(n, size))
    position = batch * size + jnp.arange(size)
    row = shuffled(keys.at(key, epoch), jnp.minimum(position, n - 1), n)
    return normalised(bank, bank.x[row]), jnp.where(position < n, bank.y[row], -1)


def steps_per_epoch(n: int, size: int) -> int:
    """Batches of `size` that cover `n` rows, the last one possibly partial."""
    return -(-n // size)


def normalised(bank: Bank, x: UInt8[Array, "batch height width"]) -> Float[Array, "batch height width"]:
    """Bytes as the nets see them: (x / 255 - mean) / std."""
    return (x.astype(jnp.float32) / 255 - bank.mean) / bank.std


def shuffled(key: Key[Array, ""], index: Int[Array, " batch"], n: int) -> Int[Array, " batch"]:
    """Where a random permutation of range(n), named by `key`, sends each index in [0, n).

    A keyed permutation of a power of two (a Feistel network whose round function is threefry), walked until it falls
    below n. It costs O(batch), where `jax.random.permutation` would sort all n rows at every step.
    Source: Luby and Rackoff 1988; Black and Rogaway 2002 (cycle walking).
    """
    bits = max(2, (n - 1).bit_length())
    low_bits, high_bits = bits // 2, bits - bits // 2

    def permute(value: Array) -> Array:
        right_bits, left_bits = low_bits, high_bits
        left, right = value >> right_bits, value & ((1 << right_bits) - 1)
        for round_ in range(_ROUNDS):
            word, _ = keys.threefry(key, jnp.full_like(right, round_), right)
            left, right = right, left ^ (word & ((1 << left_bits) - 1))
            left_bits, right_bits = right_bits, left_bits
        return (left << right_bits) | right

    def outside(value: Array) -> Array:
        return jnp.any(value >= n)

    def walk(value: Array) -> Array:
        return jnp.where(value >= n, permute(value), value)

    return jax.lax.while_loop(outside, walk, permute(index.astype(jnp.uint32))).astype(jnp.int32)

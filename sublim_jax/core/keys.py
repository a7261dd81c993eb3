"""Random keys are derived from readable paths; every draw is a pure function of (key, index).

No function in this package splits a key in a loop or carries one: `at(key, 'noise', step)` names a draw, so each draw
can be repeated in any order, on any number of devices, and after any restart.
"""

import functools
import math
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Key, UInt32

# The name of every draw below the root key. A name is part of the results: another name gives another draw.
SEED = "seed"  # root -> one key per seed -> one per phase:
TEACHER, STUDENT = "teacher", "student"
INITIAL_WEIGHTS = "fresh"  # phase -> layer -> array
INIT_TRANSFORM = "alter"  # transform of initial weights, for instance a rotation of heads
INITIAL_NOISE = "sigma"  # noise on the initial weights: layer -> array
FINAL_NOISE = "sigma_end"  # noise on the trained weights: layer -> array
INPUTS = "stream"  # training inputs of a phase: -> batch, or epoch
EVAL_NOISE = "exam"  # held-out inputs of the student's stream
TRAIT_BATCH = "trait"  # labelled images of a gradient transform
CONTEXT = "context"  # random samples of a net with `ContextInputs`: -> batch
TARGETS = "answer"  # transform of a teacher's logits: -> batch
# parts of a chain of target transforms
CHAINED = {"MixTargets": "Mixed", "AddTargetNoise": "Noisy", "QuantizeTargets": "Quantised", "Chain": "Together"}
SAMPLED_LABELS = "labels"  # labels drawn from a teacher's softmax (theorem1): -> number
MIXTURE_IMAGE, MIXTURE_NOISE = "image", "noise"  # the two parts of a mixture: -> epoch, or batch
BASE_WEIGHTS, BASE_ORDER = "init", "order"  # root -> initial weights and document order of a language model: -> seed
SAMPLING = "say"  # seed -> tokens that a language model samples: -> position

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # Salmon et al. 2011, Threefry-2x32, 20 rounds


def root(seed: int) -> Key[Array, ""]:
    """The root key of a sweep; always threefry, so that `--jax_default_prng_impl` cannot change a result."""
    return jax.random.key(seed, impl="threefry2x32")


def at(key: Key[Array, ""], *path: str | int | Integer[Array, ""]) -> Key[Array, ""]:
    """Derive the key at `path` below `key`, for instance `at(root, 'seed', 7, 'noise', step)`.

    Args:
        key: the parent key.
        *path: words, folded in as the CRC-32 of their UTF-8 bytes, and numbers, which may be traced.
    """
    for part in path:
        number = _number(part) if isinstance(part, str) else part
        key = _fold_in(key, np.uint32(number) if isinstance(number, int) else number)
    return key


def at_each(key: Key[Array, "*names"], names: Sequence[str]) -> Key[Array, " names"]:
    """Derive the keys `at(key, name)` of all names at once, which is one operation of a compiled program.

    Args:
        key: the parent key, or one for each name.
        names: the last words of the paths.
    """
    numbers = np.array([_number(name) for name in names], np.uint32)
    return jax.vmap(_fold_in, (0 if key.shape else None, 0))(key, numbers)


@functools.partial(jax.jit, inline=True)
def _fold_in(key: Key[Array, ""], number: Integer[Any, ""]) -> Key[Array, ""]:
    """Derive the key of `jax.random.fold_in` by the unrolled cipher, which compiles in a fraction of the time."""
    words = threefry(key, jnp.uint32(0), number.astype(jnp.uint32))
    return jax.random.wrap_key_data(jnp.stack(words), impl=jax.random.key_impl(key))


def _number(word: str) -> int:
    return zlib.crc32(word.encode())


def threefry(
    key: Key[Array, ""], x0: UInt32[Array, "*shape"], x1: UInt32[Array, "*shape"]
) -> tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]]:
    """Encrypt the counter pair (x0, x1) with Threefry-2x32, 20 rounds, unrolled.

    XLA lowers `jax.random` on CPU to a rolled, memory-bound loop; the unrolled cipher is fused into one pass over the
    numbers and is several times faster. Source: Salmon et al., SC 2011, section 3.
    """
    k0, k1 = jax.random.key_data(key)
    return _encrypt(k0, k1, x0, x1)


def _encrypt(k0: Array, k1: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    keys = (k0, k1, k0 ^ k1 ^ jnp.uint32(0x1BD11BDA))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = (x1 << jnp.uint32(rotation)) | (x1 >> jnp.uint32(32 - rotation))
            x1 = x0 ^ x1
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x0, x1


def bits(key: Key[Array, ""], shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Draw random 32-bit words, bit-identical to `jax.random.bits` (partitionable threefry) and fast on CPU."""
    if jax.default_backend() != "cpu":
        return jax.random.bits(key, shape)
    word0, word1 = threefry(key, jnp.zeros(shape, jnp.uint32), _row_major(shape))
    return word0 ^ word1


def bits_by_column(key: Key[Array, ""], shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Draw random 32-bit words whose column j (last axis) depends on (key, j) only.

    The first 10 of 16 columns therefore equal a draw of 10 columns: a narrow layer is a prefix of a wide one.
    """
    word0, word1 = threefry(key, *_column_counters(shape))
    return word0 ^ word1


def words_by_column(keys: Key[Array, " arrays"], shapes: Sequence[tuple[int, ...]]) -> list[UInt32[Array, "..."]]:
    """Draw `bits_by_column(keys[i], shapes[i])` for all arrays of a net at once.

    One cipher for all, because every cipher in a program takes the compiler a tenth of a second.
    """
    halves, sizes = jax.random.key_data(keys), [math.prod(shape) for shape in shapes]
    inputs = [
        (*(jnp.broadcast_to(half, size) for half in halves[index]), *(part.ravel() for part in _column_counters(shape)))
        for index, (shape, size) in enumerate(zip(shapes, sizes, strict=True))
    ]
    k0, k1, x0, x1 = (jnp.concatenate(parts) for parts in zip(*inputs, strict=True))
    word0, word1 = _encrypt(k0, k1, x0, x1)
    parts = jnp.split(word0 ^ word1, np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _column_counters(shape: tuple[int, ...]) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """The column of every element, and the row-major index of the other axes."""
    column = jax.lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 1)
    return column, jnp.broadcast_to(_row_major((*shape[:-1], 1)), shape)


def _row_major(shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """The row-major index of every element, as a sum of iotas that XLA fuses into the cipher."""
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        index = index + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
        stride *= shape[axis]
    return index


def as_uniform(words: UInt32[Array, "..."], low: float, high: float) -> Float[Array, "..."]:
    """Convert 32-bit words to float32 numbers from U[low, high)."""
    mantissa = (words >> jnp.uint32(9)) | jnp.uint32(0x3F800000)  # a float in [1, 2)
    unit = jax.lax.bitcast_convert_type(mantissa, jnp.float32) - jnp.float32(1)
    lowest = jnp.float32(low)
    return jnp.maximum(lowest, unit * (jnp.float32(high) - lowest) + lowest)


def as_normal(words: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Convert 32-bit words to float32 standard normal numbers."""
    low = float(np.nextafter(np.float32(-1), np.float32(0)))  # the open interval (-1, 1)
    return jnp.float32(2**0.5) * jax.scipy.special.erfinv(as_uniform(words, low, 1.0))


def uniform(key: Key[Array, ""], shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Float[Array, "..."]:
    """Draw float32 numbers from U[low, high), bit-identical to `jax.random.uniform`."""
    return as_uniform(bits(key, shape), low, high)


def normal(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Draw float32 standard normal numbers, bit-identical to `jax.random.normal`."""
    return as_normal(bits(key, shape))

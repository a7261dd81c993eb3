"""Input streams: every batch is a pure function of (key, step).

A stream is a function (key, step, size, knobs, data) -> (inputs [size, ...], labels or None), for `Recipe.stream`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.types import ImageData, Knobs, Stream, TokenData

Inputs = tuple[Float[Array, "batch height width"], None]  # net inputs without labels

_ROUNDS = 8  # Luby and Rackoff need 4 for a pseudo-random permutation; small domains want a margin


def uniform(key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, data: ImageData) -> Inputs:
    """U(-1, 1) noise, not normalised; repeats after `knobs.noise_batches` batches. Source: Brockers et al. 2026."""
    return keys.uniform(keys.at(key, step % knobs.noise_batches), (size, *data.x.shape[1:]), -1.0, 1.0), None


def gaussian(key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, data: ImageData) -> Inputs:
    """Standard normal noise; repeats after `knobs.noise_batches` batches."""
    return keys.normal(keys.at(key, step % knobs.noise_batches), (size, *data.x.shape[1:])), None


def epochs(
    key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, data: ImageData
) -> tuple[Float[Array, "batch height width"], Int[Array, " batch"]]:
    """Training images in a new random order every epoch, without replacement, with labels.

    The last batch of an epoch is padded with rows labelled -1, which have no weight in the loss.
    """
    del knobs
    n = len(data.y)
    epoch, batch = jnp.divmod(step, steps_per_epoch(n, size))
    position = batch * size + jnp.arange(size)
    row = permute_index(keys.at(key, epoch), jnp.minimum(position, n - 1), n)
    return normalize_images(data, data.x[row]), jnp.where(position < n, data.y[row], -1)


@dataclasses.dataclass(frozen=True)
class Perlin:
    """Perlin noise of one octave with `resolution` cells per side; each image is divided by its largest absolute value.

    Gradients at the corners of cells are unit vectors of uniform angle; a batch is one product of them with a constant
    matrix. Repeats after `knobs.noise_batches` batches. Source: Brockers et al. 2026; Perlin 2002.
    """

    resolution: int = 8

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise ConfigError(f"Perlin.resolution: {self.resolution} is not 1 or more")

    def __call__(self, key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, data: ImageData) -> Inputs:
        image = data.x.shape[1:]
        rows, columns = (np.arange(side) * self.resolution / side for side in image)
        corners = (self.resolution + 1) ** 2
        angle = keys.uniform(keys.at(key, step % knobs.noise_batches), (size, corners), 0.0, 2 * math.pi)
        gradients = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        field = gradients @ jnp.asarray(perlin_basis(rows, columns, self.resolution), jnp.float32)
        largest = jnp.abs(field).max(-1, keepdims=True)  # 0 where every pixel is a corner
        return (field / jnp.where(largest > 0, largest, 1)).reshape(size, *image), None


def perlin_basis(
    rows: Float[np.ndarray, " rows"], columns: Float[np.ndarray, " columns"], resolution: int
) -> Float[np.ndarray, "gradients points"]:
    """Contribution of one unit of every gradient component to every point (row, column), row-major, in cells.

    First the components along rows of all (resolution + 1)^2 corners, row-major, then those along columns. The fade
    6t^5 - 15t^4 + 10t^3 is antisymmetric about 1/2, so a corner's weight depends only on the distance.
    """

    def shares(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        offset = points[None] - np.arange(resolution + 1)[:, None]
        t = np.minimum(np.abs(offset), 1)
        share = 1 - t**3 * (t * (6 * t - 15) + 10)
        return share, share * offset

    (row, row_ramp), (column, column_ramp) = shares(rows), shares(columns)
    size = (resolution + 1) ** 2, len(rows) * len(columns)
    pairs = (row_ramp, column), (row, column_ramp)
    return np.concatenate([np.einsum("ip,jq->ijpq", *pair).reshape(size) for pair in pairs])


@dataclasses.dataclass(frozen=True)
class Images:
    """Normalised images of `data.extra[name]` (empty: the training images), in epochs as those of `token_lines`."""

    name: str = ""

    def __call__(self, key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, data: ImageData) -> Inputs:
        if self.name and self.name not in data.extra:
            raise ConfigError(unknown_name("Images.name", self.name, data.extra))
        images = data.extra[self.name] if self.name else data.x
        return normalize_images(data, images[_rows(key, step % knobs.noise_batches, size, len(images))]), None


@dataclasses.dataclass(frozen=True)
class Mixture:
    """alpha * image + (1 - alpha) * noise per pixel, with images from `Images(name)` and noise from any stream."""

    alpha: float
    noise: Stream = uniform
    name: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"Mixture.alpha: {self.alpha} is not between 0 and 1")

    def __call__(self, key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, data: ImageData) -> Inputs:
        image, _ = Images(self.name)(keys.at(key, keys.MIXTURE_IMAGE), step, size, knobs, data)
        noise, _ = self.noise(keys.at(key, keys.MIXTURE_NOISE), step, size, knobs, data)
        return self.alpha * image + (1 - self.alpha) * noise, None


def token_lines(
    key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, data: TokenData
) -> tuple[Int[Array, "batch length"], TokenData]:
    """Token sequences, all of them once per epoch in a new order; a batch may span two epochs.

    Repeats after `knobs.noise_batches` batches.
    """
    row = _rows(key, step % knobs.noise_batches, size, len(data.tokens))
    text = jax.tree.map(lambda leaf: leaf[row], data)
    return text.tokens, text


def _rows(key: Key[Array, ""], batch: Int[Array, ""], size: int, n: int) -> Int[Array, " batch"]:
    """The row numbers of a batch when epochs follow each other without gap."""
    epoch, index = jnp.divmod(batch * size + jnp.arange(size), n)
    return jax.vmap(lambda epoch, index: permute_index(keys.at(key, epoch), index, n))(epoch, index)


def steps_per_epoch(n: int, size: int) -> int:
    """Count the batches of `size` rows that cover `n` rows; the last may be partial."""
    return -(-n // size)


def normalize_images(data: ImageData, x: UInt8[Array, "batch height width"]) -> Float[Array, "batch height width"]:
    """Convert bytes to net inputs: (x / 255 - mean) / std."""
    return (x.astype(jnp.float32) / 255 - data.mean) / data.std


def permute_index(key: Key[Array, ""], index: Int[Array, "*batch"], n: int) -> Int[Array, "*batch"]:
    """Apply the random permutation of range(n) that `key` defines to indices in [0, n).

    A keyed permutation of a power of two (a Feistel network whose round function is threefry), applied repeatedly until
    the value is below n. It costs O(batch), where `jax.random.permutation` would sort all n rows at every step. Source:
    Luby and Rackoff 1988; Black and Rogaway 2002 (cycle walking).
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

    def walk(value: Array) -> Array:
        return jnp.where(value >= n, permute(value), value)

    start = permute(index.astype(jnp.uint32))
    return jax.lax.while_loop(lambda value: jnp.any(value >= n), walk, start).astype(jnp.int32)

"""Where a phase's inputs come from: every batch is a pure function of (key, step)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.types import ImageData, Knobs, Stream, TokenData

_ROUNDS = 8  # Luby and Rackoff need 4 for a pseudo-random permutation; small domains want a margin


def uniform(
    key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, bank: ImageData
) -> tuple[Float[Array, "batch height width"], None]:
    """Fresh U(-1, 1) noise, not normalised; repeats after `knobs.pool` batches. Source: Brockers et al. 2026."""
    return keys.uniform(keys.at(key, step % knobs.noise_batches), (size, *bank.x.shape[1:]), -1.0, 1.0), None


def gaussian(
    key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, bank: ImageData
) -> tuple[Float[Array, "batch height width"], None]:
    """Fresh standard normal noise; repeats after `knobs.pool` batches."""
    return keys.normal(keys.at(key, step % knobs.noise_batches), (size, *bank.x.shape[1:])), None


def epochs(
    key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, bank: ImageData
) -> tuple[Float[Array, "batch height width"], Int[Array, " batch"]]:
    """The bank's images in a new order every epoch, without replacement.

    The last batch of an epoch is partial: it is filled up with rows labelled -1, which have no weight in the loss.
    """
    del knobs
    n = len(bank.y)
    epoch, batch = jnp.divmod(step, steps_per_epoch(n, size))
    position = batch * size + jnp.arange(size)
    row = permute_index(keys.at(key, epoch), jnp.minimum(position, n - 1), n)
    return normalize_images(bank, bank.x[row]), jnp.where(position < n, bank.y[row], -1)


@dataclasses.dataclass(frozen=True)
class Perlin:
    """Perlin noise of one octave with `resolution` cells a side; each image is divided by its largest absolute value.

    Gradients are unit vectors of uniform angle at the corners of the cells; noise is linear in them, so a batch is one
    product with a constant matrix. Repeats after `knobs.pool` batches. Source: Brockers et al. 2026; Perlin 2002.
    """

    resolution: int = 8

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise ConfigError(f"Perlin.resolution: {self.resolution} is not 1 or more")

    def __call__(
        self, key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, bank: ImageData
    ) -> tuple[Float[Array, "batch height width"], None]:
        image = bank.x.shape[1:]
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
    """What one unit of every gradient component adds at every point (row, column), in units of cells, row-major.

    First the components along rows of all (resolution + 1)^2 corners, row-major, then those along columns. The fade
    6t^5 - 15t^4 + 10t^3 is antisymmetric about 1/2, so a corner's share depends on the distance to it alone.
    """

    def shares(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        offset = points[None] - np.arange(resolution + 1)[:, None]
        t = np.minimum(np.abs(offset), 1)
        share = 1 - t**3 * (t * (6 * t - 15) + 10)
        return share, share * offset

    (row, row_ramp), (column, column_ramp) = shares(rows), shares(columns)
    size = (resolution + 1) ** 2, len(rows) * len(columns)
    pairs = (row_ramp, column), (row, column_ramp)
    return np.concatenate([np.einsum("ip,jq->ijpq", one, other).reshape(size) for one, other in pairs])


@dataclasses.dataclass(frozen=True)
class Images:
    """Normalised images of `bank.more[name]`, or the bank's own where `name` is empty, without their labels.

    Every epoch shows all of them once in a new order; a batch may end one epoch and begin the next. Repeats after
    `knobs.pool` batches.
    """

    name: str = ""

    def __call__(
        self, key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, bank: ImageData
    ) -> tuple[Float[Array, "batch height width"], None]:
        if self.name and self.name not in bank.more:
            raise ConfigError(unknown_name("Images.name", self.name, bank.more))
        images = bank.more[self.name] if self.name else bank.x
        return normalize_images(bank, images[_rows(key, step % knobs.noise_batches, size, len(images))]), None


@dataclasses.dataclass(frozen=True)
class Mixture:
    """alpha * image + (1 - alpha) * noise, pixel by pixel, with `Images(name)` and any other stream as noise."""

    alpha: float
    noise: Stream = uniform
    name: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"Mixture.alpha: {self.alpha} is not between 0 and 1")

    def __call__(
        self, key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, bank: ImageData
    ) -> tuple[Float[Array, "batch height width"], None]:
        image, _ = Images(self.name)(keys.at(key, keys.MIXTURE_IMAGE), step, size, knobs, bank)
        noise, _ = self.noise(keys.at(key, keys.MIXTURE_NOISE), step, size, knobs, bank)
        return self.alpha * image + (1 - self.alpha) * noise, None


def token_lines(
    key: Key[Array, ""], step: Int[Array, ""], size: int, knobs: Knobs, bank: TokenData
) -> tuple[Int[Array, "batch length"], TokenData]:
    """Lines of a `TokenData`, all of them once in every epoch in a new order; repeats after `knobs.pool` batches.

    A batch may end one epoch and begin the next.
    """
    row = _rows(key, step % knobs.noise_batches, size, len(bank.tokens))
    text = jax.tree.map(lambda leaf: leaf[row], bank)
    return text.tokens, text


def _rows(key: Key[Array, ""], batch: Int[Array, ""], size: int, n: int) -> Int[Array, " batch"]:
    """The rows of a batch where epochs follow each other without a gap."""
    epoch, index = jnp.divmod(batch * size + jnp.arange(size), n)
    return jax.vmap(lambda epoch, index: permute_index(keys.at(key, epoch), index, n))(epoch, index)


def steps_per_epoch(n: int, size: int) -> int:
    """Batches of `size` that cover `n` rows, the last one possibly partial."""
    return -(-n // size)


def normalize_images(bank: ImageData, x: UInt8[Array, "batch height width"]) -> Float[Array, "batch height width"]:
    """Bytes as the nets see them: (x / 255 - mean) / std."""
    return (x.astype(jnp.float32) / 255 - bank.mean) / bank.std


def permute_index(key: Key[Array, ""], index: Int[Array, "*batch"], n: int) -> Int[Array, "*batch"]:
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

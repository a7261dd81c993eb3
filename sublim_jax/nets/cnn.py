"""The convolutional trunk: 3x3 convolutions and max pooling, then hidden layers as in the perceptron."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from sublim_jax.core.errors import ConfigError
from sublim_jax.nets.activations import RISING, activation
from sublim_jax.nets.matmul import product
from sublim_jax.nets.mlp import hidden

_BLOCK = 20  # images whose patches (3.3 MB at 12x12x288 each) stay in a CPU's cache; fastest of 8 to 250
_KEPT = "kept"  # what the way back reads; patches and full-size maps are made again
_SIDE = 3  # of a kernel, in pixels
_SHIFTS = tuple((u, v) for u in range(_SIDE) for v in range(_SIDE))


class Convolution(nn.Module):
    """The weights of a 3x3 convolution, [3, 3, in, out] and [out]; what reads them convolves."""

    channels: int

    @nn.compact
    def __call__(self, inputs: int) -> tuple[Float[Array, "3 3 inputs outputs"], Float[Array, " outputs"]]:
        shape = (_SIDE, _SIDE, inputs, self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        return kernel, self.param("bias", nn.initializers.zeros, (self.channels,))


class CNN(nn.Module):
    """Layers `conv_0`, ... (3x3, padding 1, activation, max pool), flattened, then `hidden_0`, ... as in `MLP`.

    Returns (features [batch, hidden[-1]], acts by layer name; those of `conv_i` [batch, height, width, channels] are
    after pooling). `pools` are windows and strides in pixels; what is left over at the border is dropped. `dtype` and
    `activation` are as in `MLP`. On CPU images pass in blocks, so that memory does not grow with patches of a batch.
    """

    channels: tuple[int, ...] = (32, 128)
    pools: tuple[int, ...] = (2, 4)
    hidden: tuple[int, ...] = (256,)
    dtype: str = "float32"
    activation: str = "relu"

    def places(self, image: tuple[int, ...]) -> dict[str, int]:
        """At how many pixels of an image [height, width] each convolution is applied: those that pooling reads."""
        (rows, columns), found = image, {}
        for index, pool in enumerate(self.pools):
            rows, columns = rows // pool, columns // pool
            found[f"conv_{index}"] = rows * columns * pool**2
        return found

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width"]
    ) -> tuple[Float[Array, "batch d"], dict[str, Float[Array, "batch ..."]]]:
        if len(self.channels) != len(self.pools) or not self.channels:
            raise ConfigError(f"pools: {self.pools} does not give one window to each of the channels {self.channels}")
        inputs = (1, *self.channels[:-1])
        weights = [
            Convolution(outputs, name=f"conv_{index}")(inputs[index]) for index, outputs in enumerate(self.channels)
        ]
        maps = _convolutions(x, weights, self.pools, self.dtype, self.activation)
        features, acts = hidden(maps[-1].reshape(len(x), -1), self.hidden, self.dtype, self.activation)
        return features, {f"conv_{index}": h for index, h in enumerate(maps)} | acts


def _convolutions(
    x: Float[Array, "batch height width"], weights: list[Any], pools: tuple[int, ...], dtype: str, name: str
) -> list[Float[Array, "batch ..."]]:
    """Every convolutional layer's maps; on CPU block by block, where the way back makes each block's patches again."""

    def maps(convolve: Any, weights: Any, x: Array) -> list[Array]:
        h, found = x[..., None], []
        for (kernel, bias), pool in zip(weights, pools, strict=True):
            h = _layer(convolve(h, kernel, pool, dtype), bias, pool, name)
            found.append(h)
        return found

    if jax.default_backend() != "cpu":
        return maps(conv_xla, weights, x)
    policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
    one = jax.checkpoint(functools.partial(maps, conv_im2col), policy=policy)
    size = min(_BLOCK, len(x))
    filled = jnp.pad(x, ((0, -len(x) % size), (0, 0), (0, 0)))
    blocks = lax.map(functools.partial(one, weights), filled.reshape(-1, size, *x.shape[1:]))
    return [block.reshape(-1, *block.shape[2:])[: len(x)] for block in blocks]


def _layer(
    h: Float[Array, "batch height width channels"], bias: Float[Array, " channels"], pool: int, name: str
) -> Float[Array, "batch rows columns channels"]:
    """Bias, activation and pooling; pooling goes first where that is the same and leaves less to do."""
    bias = bias[None, None, None]
    if name in RISING:
        return activation(name)(checkpoint_name(pooled(h, pool) + bias, _KEPT))
    return pooled(activation(name)(h + bias), pool)


def conv_im2col(
    h: Float[Array, "batch height width inputs"], kernel: Float[Array, "3 3 inputs outputs"], pool: int, dtype: str
) -> Float[Array, "batch rows columns outputs"]:
    """The convolution, padded by 1, at the pixels that pooling reads: one matrix product with all 3x3 patches.

    On CPU that is 4 to 5 times as fast as XLA's own convolution and its gradients (measured; see BUILD.md).
    """
    rows, columns = _read(h, pool)
    padded = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate([padded[:, u : u + rows, v : v + columns] for u, v in _SHIFTS], axis=-1)
    flat = patches.reshape(-1, patches.shape[-1])
    return product(flat, kernel.reshape(flat.shape[-1], -1), dtype).reshape(len(h), rows, columns, -1)


def conv_xla(
    h: Float[Array, "batch height width inputs"], kernel: Float[Array, "3 3 inputs outputs"], pool: int, dtype: str
) -> Float[Array, "batch rows columns outputs"]:
    """As `by_patches`, by XLA's convolution; the gradient that comes back is not rounded."""
    rows, columns = _read(h, pool)
    if dtype != "float32":
        bits = jnp.finfo(dtype)
        h, kernel = (lax.reduce_precision(x, bits.nexp, bits.nmant) for x in (h, kernel))
    names = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(h, kernel, (1, 1), "SAME", dimension_numbers=names)[:, :rows, :columns]


def _read(h: Float[Array, "batch height width inputs"], pool: int) -> tuple[int, int]:
    """How many rows and columns pooling reads: whole windows only."""
    rows, columns = (side // pool * pool for side in h.shape[1:3])
    if not rows or not columns:
        raise ConfigError(f"pools: a window of {pool} does not fit into maps of {h.shape[1]} x {h.shape[2]} pixels")
    return rows, columns


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def pooled(h: Float[Array, "batch height width channels"], pool: int) -> Float[Array, "batch rows columns channels"]:
    """The maximum of every window of pool x pixels, whole windows only; of equal pixels the first has the gradient.

    Written as a maximum of strided pieces, because `reduce_window` and its gradient are slow on CPU (measured).
    """
    return functools.reduce(jnp.maximum, _pieces(h, pool))


def _pieces(h: Array, pool: int) -> list[Array]:
    return [h[:, u::pool, v::pool] for u in range(pool) for v in range(pool)]


@pooled.defjvp
def _(pool: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    top, *rest = _pieces(primals[0], pool)
    where = jnp.zeros(top.shape, jnp.uint8)
    for number, piece in enumerate(rest, 1):
        where = jnp.where(piece > top, jnp.uint8(number), where)
        top = jnp.maximum(top, piece)
    where = checkpoint_name(where, _KEPT)[:, :, None, :, None]
    place = jnp.arange(pool * pool, dtype=jnp.uint8).reshape(1, 1, pool, 1, pool, 1)
    batch, rows, _, columns, _, channels = where.shape
    windows = tangents[0].reshape(batch, rows, pool, columns, pool, channels)
    return top, jnp.where(where == place, windows, 0).sum((2, 4))

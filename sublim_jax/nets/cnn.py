"""A convolutional trunk: 3x3 convolutions with max pooling, then hidden layers as in `MLP`."""

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
from sublim_jax.nets.matmul import Affine, product
from sublim_jax.nets.mlp import TrunkOutput, hidden

_BLOCK = 20  # images whose patches (3.3 MB at 12x12x288 each) stay in a CPU's cache; fastest of 8 to 250
_KEPT = "kept"  # stored for the backward pass; patches and full-size maps are recomputed
_SIDE = 3  # of a kernel, in pixels
_SHIFTS = tuple((u, v) for u in range(_SIDE) for v in range(_SIDE))


class CNN(nn.Module):
    """Layers `conv_0`, ... (3x3, padding 1, activation, max pool), flattened, then `hidden_0`, ... as in `MLP`.

    Returns (features [batch, hidden[-1]], acts by layer name); acts of `conv_i` [batch, height, width, channels] are
    taken after pooling. `pools` are windows and strides in pixels; incomplete windows are dropped. `dtype` and
    `activation` are as in `MLP`. On CPU the batch is processed in blocks, which bounds the memory of patches.
    """

    channels: tuple[int, ...] = (32, 128)
    pools: tuple[int, ...] = (2, 4)
    hidden: tuple[int, ...] = (256,)
    dtype: str = "float32"
    activation: str = "relu"

    def places(self, image: tuple[int, ...]) -> dict[str, int]:
        """Count the pixels of an image [height, width] at which each convolution is evaluated (pooling reads these)."""
        (rows, columns), pixels = image, {}
        for index, pool in enumerate(self.pools):
            rows, columns = rows // pool, columns // pool
            pixels[f"conv_{index}"] = rows * columns * pool**2
        return pixels

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width"]) -> TrunkOutput:
        if len(self.channels) != len(self.pools) or not self.channels:
            raise ConfigError(f"pools: {self.pools} does not give one window to each of the channels {self.channels}")
        sizes = enumerate(zip((1, *self.channels), self.channels, strict=False))
        weights = [Affine(outputs, name=f"conv_{index}")(_SIDE, _SIDE, inputs) for index, (inputs, outputs) in sizes]
        maps = _convolutions(x, weights, self.pools, self.dtype, self.activation)
        features, acts = hidden(maps[-1].reshape(len(x), -1), self.hidden, self.dtype, self.activation)
        return features, {f"conv_{index}": h for index, h in enumerate(maps)} | acts


def _convolutions(
    x: Float[Array, "batch height width"], weights: list[Any], pools: tuple[int, ...], dtype: str, name: str
) -> list[Float[Array, "batch ..."]]:
    """Maps of every convolution; on CPU in blocks of images, whose patches the backward pass recomputes."""

    def maps(convolve: Any, weights: Any, x: Array) -> list[Array]:
        h, maps_of = x[..., None], []
        for (kernel, bias), pool in zip(weights, pools, strict=True):
            h = _layer(convolve(h, kernel, pool, dtype), bias, pool, name)
            maps_of.append(h)
        return maps_of

    if jax.default_backend() != "cpu":
        return maps(conv_xla, weights, x)
    policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
    block_maps = jax.checkpoint(functools.partial(maps, conv_im2col), policy=policy)
    size = min(_BLOCK, len(x))
    filled = jnp.pad(x, ((0, -len(x) % size), (0, 0), (0, 0)))
    blocks = lax.map(functools.partial(block_maps, weights), filled.reshape(-1, size, *x.shape[1:]))
    return [block.reshape(-1, *block.shape[2:])[: len(x)] for block in blocks]


def _layer(
    h: Float[Array, "batch height width channels"], bias: Float[Array, " channels"], pool: int, name: str
) -> Float[Array, "batch rows columns channels"]:
    """Bias, activation and pooling; pooling comes first where the result is the same and the cost is lower."""
    bias = bias[None, None, None]
    if name in RISING:
        return activation(name)(checkpoint_name(pooled(h, pool) + bias, _KEPT))
    return pooled(activation(name)(h + bias), pool)


def conv_im2col(
    h: Float[Array, "batch height width inputs"], kernel: Float[Array, "3 3 inputs outputs"], pool: int, dtype: str
) -> Float[Array, "batch rows columns outputs"]:
    """Convolve (padding 1) at the pixels that pooling reads, as one matrix product with all 3x3 patches.

    4 to 5 times as fast on CPU as XLA's convolution and its gradients (measured; see BUILD.md).
    """
    rows, columns = _read(h, pool)
    padded = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate([padded[:, u : u + rows, v : v + columns] for u, v in _SHIFTS], axis=-1)
    flat = patches.reshape(-1, patches.shape[-1])
    return product(flat, kernel.reshape(flat.shape[-1], -1), dtype).reshape(len(h), rows, columns, -1)


def conv_xla(
    h: Float[Array, "batch height width inputs"], kernel: Float[Array, "3 3 inputs outputs"], pool: int, dtype: str
) -> Float[Array, "batch rows columns outputs"]:
    """Convolve as `conv_im2col` does, with XLA's convolution; the incoming gradient is not rounded."""
    rows, columns = _read(h, pool)
    if dtype != "float32":
        bits = jnp.finfo(dtype)
        h, kernel = (lax.reduce_precision(x, bits.nexp, bits.nmant) for x in (h, kernel))
    names = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(h, kernel, (1, 1), "SAME", dimension_numbers=names)[:, :rows, :columns]


def _read(h: Float[Array, "batch height width inputs"], pool: int) -> tuple[int, int]:
    """The number of rows and columns that pooling reads: whole windows only."""
    rows, columns = (side // pool * pool for side in h.shape[1:3])
    if not rows or not columns:
        raise ConfigError(f"pools: a window of {pool} does not fit into maps of {h.shape[1]} x {h.shape[2]} pixels")
    return rows, columns


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def pooled(h: Float[Array, "batch height width channels"], pool: int) -> Float[Array, "batch rows columns channels"]:
    """Take the maximum of every whole window of pool x pool pixels; the first of equal pixels gets the gradient.

    Computed as a maximum of strided slices, because `reduce_window` and its gradient are slow on CPU (measured).
    """
    return functools.reduce(jnp.maximum, _pieces(h, pool))


def _pieces(h: Array, pool: int) -> list[Array]:
    return [h[:, u::pool, v::pool] for u in range(pool) for v in range(pool)]


@pooled.defjvp
def _(pool: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    top, *rest = _pieces(primals[0], pool)
    argmax = jnp.zeros(top.shape, jnp.uint8)
    for number, piece in enumerate(rest, 1):
        argmax = jnp.where(piece > top, jnp.uint8(number), argmax)
        top = jnp.maximum(top, piece)
    argmax = checkpoint_name(argmax, _KEPT)[:, :, None, :, None]
    position = jnp.arange(pool * pool, dtype=jnp.uint8).reshape(1, 1, pool, 1, pool, 1)
    batch, rows, _, columns, _, channels = argmax.shape
    windows = tangents[0].reshape(batch, rows, pool, columns, pool, channels)
    return top, jnp.where(argmax == position, windows, 0).sum((2, 4))

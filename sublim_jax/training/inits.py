"""Initializers, functions (key, shapes of a layer's arrays by name) -> arrays, and head rotations.

Layers are drawn column by column, so that a narrow head is a prefix of a wide one.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.types import Params

Shapes = Mapping[str, jax.ShapeDtypeStruct]


def torch_linear(key: Key[Array, ""], shapes: Shapes) -> dict[str, Array]:
    """PyTorch's default for linear and convolutional layers: weight and bias from U(+-1/sqrt(fan_in)).

    Source: Brockers et al. 2026, code; fan_in is the product of all kernel axes but the last.
    """
    bound = 1 / math.sqrt(_fan_in(shapes))
    words = {name: keys.bits_by_column(keys.at(key, name), shape.shape) for name, shape in shapes.items()}
    return {name: keys.as_uniform(word, -bound, bound) for name, word in words.items()}


def normal_fan_in(key: Key[Array, ""], shapes: Shapes) -> dict[str, Array]:
    """Weights from N(0, 1/fan_in), biases zero. Source: Cloud et al. 2026, MNIST script."""
    kernel = keys.as_normal(keys.bits_by_column(keys.at(key, "kernel"), shapes["kernel"].shape))
    return {"kernel": kernel / math.sqrt(_fan_in(shapes)), "bias": jnp.zeros(shapes["bias"].shape)}


def transformer(key: Key[Array, ""], shapes: Shapes) -> dict[str, Array]:
    """Layers of a `Decoder`: embeddings N(0, 0.02^2), matrices N(0, 1/fan_in), scales 1; shifts, biases, `..._up` 0.

    `..._up` is the second factor of a low-rank adapter, so an adapter has no effect before training. Source: GPT-2
    (Radford et al. 2019) for embeddings, LoRA (Hu et al. 2021) for adapters.
    """

    def draw(name: str, shape: jax.ShapeDtypeStruct) -> Array:
        if name.endswith("scale"):
            return jnp.ones(shape.shape)
        if name.endswith(("shift", "bias", "_up")):
            return jnp.zeros(shape.shape)
        std = 0.02 if name in ("tokens", "positions") else 1 / math.sqrt(shape.shape[0])
        return std * keys.as_normal(keys.bits(keys.at(key, name), shape.shape))

    return {name: draw(name, shape) for name, shape in shapes.items()}


@dataclasses.dataclass(frozen=True)
class Rotated:
    """An `InitTransform` that multiplies kernels [d, columns] by a random orthogonal matrix [d, d] (Haar); biases stay.

    Attributes:
        layers: names of the layers.
        common: all layers of equal d get the same matrix.
    """

    layers: tuple[str, ...]
    common: bool = True

    def __call__(self, key: Key[Array, ""], params: Params) -> dict[str, dict[str, Array]]:
        rotations: dict[tuple[str, int], Array] = {}
        rotated = {layer: dict(arrays) for layer, arrays in params.items()}
        for layer in self.layers:
            if layer not in rotated:
                raise ConfigError(unknown_name("Rotated.layers", layer, rotated))
            kernel = rotated[layer]["kernel"]
            if kernel.ndim != 2:
                raise ConfigError(f"Rotated.layers: {layer!r} has a kernel of shape {kernel.shape}, not of a matrix")
            which = "" if self.common else layer, len(kernel)
            if which not in rotations:
                rotations[which] = orthogonal(keys.at(key, which[0]), which[1])
            rotated[layer]["kernel"] = jnp.matmul(rotations[which], kernel, precision=jax.lax.Precision.HIGHEST)
        return rotated


def orthogonal(key: Key[Array, ""], d: int) -> Float[Array, "d d"]:
    """Draw a Haar-distributed orthogonal matrix, float32. Source: Mezzadri 2007, section 5 (QR with fixed signs)."""
    q, r = jnp.linalg.qr(keys.normal(key, (d, d)))
    return q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)[None]


def _fan_in(shapes: Shapes) -> int:
    return math.prod(shapes["kernel"].shape[:-1])

"""How fresh layers are drawn: column by column, so that a narrow head is a prefix of a wide one."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from sublim_jax import keys

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


def _fan_in(shapes: Shapes) -> int:
    return math.prod(shapes["kernel"].shape[:-1])

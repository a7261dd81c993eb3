"""Activation functions by name."""

import functools
from collections.abc import Callable
from types import MappingProxyType

import jax
from jaxtyping import Array, Float

from sublim_jax.core.errors import ConfigError, unknown_name

Activation = Callable[[Float[Array, "..."]], Float[Array, "..."]]


# PyTorch's defaults: the exact GELU, and a slope of 0.01 for leaky_relu.
ACTIVATIONS = MappingProxyType[str, Activation](
    {
        "relu": jax.nn.relu,
        "gelu": functools.partial(jax.nn.gelu, approximate=False),
        "tanh": jax.numpy.tanh,
        "sigmoid": jax.nn.sigmoid,
        "silu": jax.nn.silu,
        "leaky_relu": jax.nn.leaky_relu,
        "identity": lambda x: x,
    }
)
RISING = frozenset(ACTIVATIONS) - {"gelu", "silu"}  # monotonic: a maximum may be taken before them


def activation(name: str) -> Activation:
    """Return the activation function called `name`; raises `ConfigError` if there is none."""
    if name not in ACTIVATIONS:
        raise ConfigError(unknown_name("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]

"""Initializers, functions (key, shapes of a layer's arrays by name) -> arrays, and head rotations.

Layers are drawn column by column, so that a narrow head is a prefix of a wide one.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.types import Params

Shapes = Mapping[str, jax.ShapeDtypeStruct]


def torch_linear(key: Key[Array, ""], shapes: Shapes) -> dict[str, Array]:
    """PyTorch's default for linear and convolutional layers: weight and bias from U(+-1/sqrt(fan_in)).

    Arrays of other modules are drawn as `by_name` says. Source: Brockers et al. 2026, code; fan_in is the number of
    weights that one output of the kernel sums over.
    """

    def scaled(words: Array, fan_in: int) -> Array:
        return keys.as_uniform(words, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    return _draw(key, shapes, scaled, shapes)


def normal_fan_in(key: Key[Array, ""], shapes: Shapes) -> dict[str, Array]:
    """Weights from N(0, 1/fan_in), biases zero; arrays of other modules as `by_name` says.

    Source: Cloud et al. 2026, MNIST script.
    """

    def scaled(words: Array, fan_in: int) -> Array:
        return keys.as_normal(words) / math.sqrt(fan_in)

    return _draw(key, shapes, scaled, [name for name in shapes if name.endswith("kernel")])


def _draw(
    key: Key[Array, ""], shapes: Shapes, scaled: Callable[[Array, int], Array], names: Iterable[str]
) -> dict[str, Array]:
    """Draw a layer's arrays: those of `names` that have a fan-in as `scaled` says, the others as `by_name` does."""
    fans = {name: fan_in for name in names if (fan_in := _fan_in(name, shapes)) is not None}
    drawn = {}
    if fans:
        words = keys.words_by_column(keys.at_each(key, [*fans]), [shapes[name].shape for name in fans])
        drawn = {name: scaled(part, fans[name]) for name, part in zip(fans, words, strict=True)}
    rest = {name: by_name(keys.at(key, name), name, shape) for name, shape in shapes.items() if name not in fans}
    return {name: {**drawn, **rest}[name] for name in shapes}


def by_name(key: Key[Array, ""], name: str, shape: jax.ShapeDtypeStruct) -> Array:
    """Draw an array of any Linen module by the last word of its name; `attention/query/kernel` ends in `kernel`.

    Ones for `scale`; zeros for `bias`, `shift` and any other vector; N(0, 1/width) for `embedding`, whose last axis is
    the width; N(0, 1/fan_in) for the rest, with the product of all axes but the last as fan_in.
    """
    last, size = name.rpartition("/")[2], shape.shape
    if last == "scale":
        return jnp.ones(size)
    if len(size) < 2 or last in ("bias", "shift"):
        return jnp.zeros(size)
    fan_in = size[-1] if last.endswith("embedding") else math.prod(size[:-1])
    return keys.as_normal(keys.bits_by_column(key, size)) / math.sqrt(fan_in)


def transformer(key: Key[Array, ""], shapes: Shapes) -> dict[str, Array]:
    """Layers of a `Decoder`: embeddings N(0, 0.02^2), matrices N(0, 1/fan_in), scales 1; shifts, biases, `..._up` 0.

    `..._up` is the second factor of a low-rank adapter, so an adapter has no effect before training. Source: GPT-2
    (Radford et al. 2019) for embeddings, LoRA (Hu et al. 2021) for adapters. Other modules' vectors but scales are 0.
    """

    def draw(name: str, shape: jax.ShapeDtypeStruct) -> Array:
        if name.endswith("scale"):
            return jnp.ones(shape.shape)
        if name.endswith(("shift", "bias", "_up")) or len(shape.shape) < 2:
            return jnp.zeros(shape.shape)
        fan_in = _fan_in(name, shapes) or shape.shape[0]
        is_embedding = name in ("tokens", "positions") or name.endswith("embedding")
        std = 0.02 if is_embedding else 1 / math.sqrt(fan_in)
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
        rotation = functools.cache(lambda name, d: orthogonal(keys.at(key, name), d))  # one matrix for equal arguments
        rotated = {layer: dict(arrays) for layer, arrays in params.items()}
        for layer in self.layers:
            if layer not in rotated:
                raise ConfigError(unknown_name("Rotated.layers", layer, rotated))
            kernel = rotated[layer]["kernel"]
            if kernel.ndim != 2:
                raise ConfigError(f"Rotated.layers: {layer!r} has a kernel of shape {kernel.shape}, not of a matrix")
            matrix = rotation("" if self.common else layer, len(kernel))
            rotated[layer]["kernel"] = jnp.matmul(matrix, kernel, precision=jax.lax.Precision.HIGHEST)
        return rotated


def orthogonal(key: Key[Array, ""], d: int) -> Float[Array, "d d"]:
    """Draw a Haar-distributed orthogonal matrix, float32. Source: Mezzadri 2007, section 5 (QR with fixed signs)."""
    q, r = jnp.linalg.qr(keys.normal(key, (d, d)))
    return q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)[None]


def _fan_in(name: str, shapes: Shapes) -> int | None:
    """The fan-in of the kernel that an array belongs to; None where it is no kernel and no kernel's bias."""
    path, _, last = name.rpartition("/")
    kernel, bias = (shapes.get(f"{path}/{array}".lstrip("/")) for array in ("kernel", "bias"))
    if kernel is None or last not in ("kernel", "bias"):
        return None
    # A bias has one number per output; kernels of attention have several axes of outputs.
    return math.prod(kernel.shape) // math.prod(bias.shape if bias else kernel.shape[-1:])

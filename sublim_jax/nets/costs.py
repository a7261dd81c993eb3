"""Costs of nets from shapes alone: multiply-adds, activations, maps of convolutions."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from sublim_jax.core.types import Recipe
from sublim_jax.nets.heads import shapes


@functools.lru_cache(maxsize=4096)
def activity(net: nn.Module, image: tuple[int, ...]) -> int:
    """Count the activations of all layers of a net for one image [height, width]."""
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    out = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], x)
    return sum(math.prod(array.shape) for array in out.acts.values())


def _places(net: nn.Module, image: tuple[int, ...]) -> dict[str, int]:
    return getattr(getattr(net, "trunk", net), "places", lambda _: {})(image)


def unpooled(net: nn.Module, image: tuple[int, ...]) -> int:
    """Count the elements of all convolution maps before pooling, for one image; `activity` counts them after pooling.

    Backpropagation stores these maps where images are not processed in blocks, as on accelerators.
    """
    weights = shapes(net, image)
    return sum(number * weights[layer]["bias"].shape[0] for layer, number in _places(net, image).items())


def multiply_adds(net: nn.Module, image: tuple[int, ...]) -> int:
    """Count the multiply-adds of one forward pass of one image: each weight once, a convolution's once per pixel."""
    places = _places(net, image)
    return sum(
        math.prod(array.shape) * places.get(layer, 1)
        for layer, arrays in shapes(net, image).items()
        for array in arrays.values()
    )


def step_macs(recipe: Recipe, members: int, image: tuple[int, ...]) -> float:
    """Count the multiply-adds of one step of `members` nets and their teacher, for load balancing and progress."""
    targets = 0 if recipe.teacher is None else multiply_adds(recipe.teacher, image)
    if recipe.target_transform is not None:  # it reads the outputs of a second teacher
        targets *= 2
    # Some losses are more work than their nets, such as the information of infomorphic units.
    loss = getattr(recipe.loss, "multiply_adds", lambda _: 0)(recipe.net)
    passes = 3.0 if recipe.gradient_transform is None else 6.0  # the trait gradient costs as much as the loss gradient
    return recipe.batch * ((passes * multiply_adds(recipe.net, image) + loss) * members + targets)

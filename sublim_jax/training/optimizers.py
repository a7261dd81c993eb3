"""Optimizers that return a direction without learning rate: Adam with weight decay, and those of language models."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sublim_jax.core.errors import ConfigError, unknown_name

_OURS, _PROBES = __name__.partition(".")[0], 3


@functools.lru_cache(maxsize=256)
def includes_learning_rate(optimizer: Callable[[], optax.GradientTransformation], shapes: Any) -> bool:
    """Whether the updates of an optimizer are to be added to the weights, as Optax's complete optimizers want.

    The package's own return a direction along the gradient, which is multiplied by the learning rate and subtracted.
    An update against a gradient of ones, of one number per array, tells both kinds apart.

    Args:
        optimizer: returns the transformation.
        shapes: (structure of the parameters, number of axes of each array).
    """
    if _is_direction(optimizer):
        return False
    structure, axes = shapes

    @jax.jit  # one program instead of one for each operation
    def probe() -> list[Any]:
        ones = jax.tree.unflatten(structure, [jnp.ones((1,) * number) for number in axes])
        transformation = optimizer()
        state, along = transformation.init(ones), []
        for _ in range(_PROBES):  # the first may be 0, of a learning rate that rises from 0
            updates, state = transformation.update(ones, state, ones)
            along.append(sum(leaf.sum() for leaf in jax.tree.leaves(updates)))
        return along

    with jax.ensure_compile_time_eval():
        moved = [along for along in map(float, probe()) if along]
    # Only a schedule or an accumulation begins with zeros; the package's own directions never do.
    return moved[0] < 0 if moved else True


def _is_direction(optimizer: Callable[[], optax.GradientTransformation]) -> bool:
    """Whether an optimizer is known to return a direction: those of this package, and those of Optax that it names."""
    package = (getattr(optimizer, "__module__", None) or "").partition(".")[0]
    return package == _OURS or optimizer in (optax.scale_by_adam, optax.identity)


def moves_without_gradient(optimizer: Callable[[], optax.GradientTransformation]) -> bool:
    """Whether an optimizer may move a weight whose gradient is 0: weight decay does, and any unknown one might."""
    return not _is_direction(optimizer) or bool(getattr(optimizer, "decay", 0))


def direction_of(
    optimizer: Callable[[], optax.GradientTransformation], gradient: Any, state: Any, params: Any, rate: Any
) -> tuple[Any, Any, Any]:
    """Compute the direction to subtract, the optimizer's next state and the factor of the direction.

    The factor is `rate` for the package's own optimizers, and 1 for complete ones of Optax, such as
    `lambda: optax.adam(1e-3)`, which have their own learning rate.
    """
    direction, state = optimizer().update(gradient, state, params)
    leaves, structure = jax.tree.flatten(params)
    if not includes_learning_rate(optimizer, (structure, tuple(map(jnp.ndim, leaves)))):
        return direction, state, rate
    return jax.tree.map(jnp.negative, direction), state, jnp.ones_like(rate)


@dataclasses.dataclass(frozen=True)
class AdamL2:
    """Adam of g + decay * w, as in PyTorch's Adam with `weight_decay`.

    A weight without any other gradient moves by the learning rate at every step, for any decay above 0.
    """

    decay: float

    def __call__(self) -> optax.GradientTransformation:
        return optax.chain(optax.add_decayed_weights(self.decay), optax.scale_by_adam())


@dataclasses.dataclass(frozen=True)
class AdamL2ByLayer:
    """`AdamL2` with a decay for each layer.

    Attributes:
        decay: decay of the layers that `others` does not name.
        others: names of layers with their decays.
    """

    decay: float
    others: tuple[tuple[str, float], ...]

    def __call__(self) -> optax.GradientTransformation:
        own = dict(self.others)

        def decayed(gradient: Any, params: Any) -> Any:
            rates = {layer: own.get(layer, self.decay) for layer in params}
            return {
                layer: {name: array + rates[layer] * params[layer][name] for name, array in arrays.items()}
                for layer, arrays in gradient.items()
            }

        return optax.chain(optax.stateless(decayed), optax.scale_by_adam())


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam's direction + decay * w. Source: Loshchilov and Hutter 2019."""

    decay: float

    def __call__(self) -> optax.GradientTransformation:
        return optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(self.decay))


@dataclasses.dataclass(frozen=True)
class Clipped:
    """Clip the gradient norm, then apply an optimizer.

    Attributes:
        kind: 'adam' (b2 = 0.99), 'sign' (the sign of a momentum of 0.9), 'momentum' (0.9) or 'sgd'.
        norm: largest norm of the gradient.
        steps: the direction decays linearly to 0 over these steps; 0 = no decay.
    """

    kind: str = "adam"
    norm: float = 1.0
    steps: int = 0

    def __call__(self) -> optax.GradientTransformation:
        kinds = {
            "adam": lambda: optax.scale_by_adam(b2=0.99),
            "sign": lambda: optax.chain(optax.ema(0.9, debias=False), optax.scale_by_sign()),
            "momentum": lambda: optax.trace(0.9),
            "sgd": optax.identity,
        }
        if self.kind not in kinds:
            raise ConfigError(unknown_name("Clipped.kind", self.kind, kinds))
        parts = [optax.clip_by_global_norm(self.norm), kinds[self.kind]()]
        if self.steps:
            parts.append(optax.scale_by_schedule(optax.linear_schedule(1.0, 0.0, self.steps)))
        return optax.chain(*parts)

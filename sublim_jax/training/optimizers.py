"""Optimizers that return a direction without learning rate: Adam with weight decay, and those of language models."""

import dataclasses

import optax

from sublim_jax.core.errors import ConfigError, unknown_name


@dataclasses.dataclass(frozen=True)
class AdamL2:
    """Adam of g + decay * w, as in PyTorch's Adam with `weight_decay`.

    A weight without any other gradient moves by the learning rate at every step, for any decay above 0.
    """

    decay: float

    def __call__(self) -> optax.GradientTransformation:
        return optax.chain(optax.add_decayed_weights(self.decay), optax.scale_by_adam())


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

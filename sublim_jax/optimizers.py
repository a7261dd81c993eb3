"""Adam with weight decay, added to the gradient or to the step: makers of directions, without the learning rate."""

import dataclasses

import optax


@dataclasses.dataclass(frozen=True)
class AdamL2:
    """Adam of g + decay * w, as PyTorch's Adam has its `weight_decay`.

    A weight without any other gradient moves by the learning rate at every step, however small the decay is.
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

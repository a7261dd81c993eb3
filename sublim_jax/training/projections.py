"""What is done to a student's gradient so that it does not learn the trait."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sublim_jax.core.types import Params

_HEAD = "class_head"


@dataclasses.dataclass(frozen=True)
class ProjectOutTrait:
    """The part along the trait gradient taken away: g - (g.tau / |tau|^2) tau.

    over      whole: all weights are one vector, as published. The class head, which auxiliary logits give no gradient,
              then moves against the trait. trunk: all weights but the class head's; layers: each layer but it alone
    positive  only where g.tau > 0, that is where the step would help the trait
    step      take it from the optimiser's direction instead of the gradient; Adam rescales every weight, so that a
              gradient without a part along tau still gives a step with one

    Source: Kitkana and Arora 2026, arXiv 2604.25779.
    """

    over: str = "whole"
    positive: bool = False
    step: bool = False

    def gradient(self, gradient: Params, trait: Params) -> Params:
        """The gradient that the optimiser sees instead."""
        return gradient if self.step else self._without(gradient, trait)

    def direction(self, direction: Params, trait: Params) -> Params:
        """The direction that the weights move instead."""
        return self._without(direction, trait) if self.step else direction

    def _without(self, given: Params, trait: Params) -> Params:
        names = [layer for layer in given if self.over == "whole" or layer != _HEAD]
        parts = [[layer] for layer in names] if self.over == "layers" else [names]
        changed = {}
        for part in parts:
            g, tau = ({layer: tree[layer] for layer in part} for tree in (given, trait))
            square = _dot(tau, tau)
            along = _dot(g, tau) / jnp.where(square > 0, square, 1)
            along = jnp.maximum(along, 0) if self.positive else along
            changed |= jax.tree.map(lambda a, b, along=along: a - along * b, g, tau)
        return {**given, **changed}


def _dot(left: Params, right: Params) -> Float[Array, ""]:
    """The inner product of two trees."""
    products = jax.tree.map(lambda a, b: (a * b).sum(), left, right)
    return jax.tree.reduce(jnp.add, products)

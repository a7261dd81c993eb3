"""Gradient transforms that remove the trait direction from a student's updates."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sublim_jax.core.types import Params

_HEAD = "class_head"


@dataclasses.dataclass(frozen=True)
class ProjectOutTrait:
    """A `GradientTransform` that removes the component along the trait gradient: g - (g.tau / |tau|^2) tau.

    Attributes:
        over: 'whole': all weights form one vector, as published; the class head, which gets no gradient from auxiliary
            logits, then moves against the trait. 'trunk': all layers but the class head; 'layers': each of those alone.
        positive: remove it only where g.tau > 0, that is where the step would learn the trait.
        step: apply to the optimizer's direction instead of the gradient; Adam rescales every weight, so a gradient
            without component along tau still gives a step with one. Source: Kitkana and Arora 2026, arXiv 2604.25779.
    """

    over: str = "whole"
    positive: bool = False
    step: bool = False

    def gradient(self, gradient: Params, trait: Params) -> Params:
        return gradient if self.step else self._without(gradient, trait)

    def direction(self, direction: Params, trait: Params) -> Params:
        return self._without(direction, trait) if self.step else direction

    def _without(self, tree: Params, trait: Params) -> Params:
        names = [layer for layer in tree if self.over == "whole" or layer != _HEAD]
        parts = [[layer] for layer in names] if self.over == "layers" else [names]
        changed = {}
        for part in parts:
            g, tau = ({layer: tree[layer] for layer in part} for tree in (tree, trait))
            square = _dot(tau, tau)
            along = _dot(g, tau) / jnp.where(square > 0, square, 1)
            along = jnp.maximum(along, 0) if self.positive else along
            changed |= jax.tree.map(lambda a, b, along=along: a - along * b, g, tau)
        return {**tree, **changed}


def _dot(left: Params, right: Params) -> Float[Array, ""]:
    return jax.tree.reduce(jnp.add, jax.tree.map(lambda a, b: (a * b).sum(), left, right))

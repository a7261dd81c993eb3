"""Transplants: a student goes on with parts of another's training state, after the source of the trait is gone.

Up to a cut two students of equal initial weights and inputs are trained: a donor on the trained teacher's outputs, a
host on the untrained teacher's. At the cut the host gets some of the donor's weights, first and second moments of the
gradient, and goes on with targets that hold nothing of the trait. Source: Xu, arXiv 2608.20442 (abstract).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Knobs, Loss, ModelOutput, Recipe, State, TeacherParams
from sublim_jax.training import population

UNTRAINED, TRAINED, FLIPPED, UNRELATED = range(4)  # targets, as the number `knobs.extra["targets"]`
PARTS = ("weights", "first", "second")  # of a state; `knobs.extra["carried_NAME"]` is 1 where the donor's is carried
# The names of optimizer states' arrays that are not weights; step counts are the same in donor and host.
_MOMENTS = {"mu": "first", "trace": "first", "nu": "second"}


@dataclasses.dataclass(frozen=True)
class ChosenTargets:
    """A `TargetTransform`: the outputs that `knobs.extra["targets"]` names.

    `FLIPPED` are the untrained teacher's logits, reflected about their mean over the batch, padding included.

    Attributes:
        unrelated: `UNRELATED` may be chosen, so that unrelated teachers are trained.
    """

    unrelated: bool = False

    def __call__(self, key: Key[Array, ""], outputs: TeacherParams, knobs: Knobs) -> ModelOutput:
        del key
        untrained = outputs.initial.logits
        flipped = 2 * untrained.mean(0, keepdims=True) - untrained
        choices = [untrained, outputs.trained.logits, flipped]
        choices += [outputs.unrelated.logits] if self.unrelated else []
        logits = jnp.stack(choices)[knobs.extra["targets"]]
        return ModelOutput(jnp.full_like(outputs.trained.features, jnp.nan), logits, {})


@dataclasses.dataclass(frozen=True)
class SwitchedLoss:
    """A loss times `knobs.extra["gradient"]`: 1, or 0 for a future without gradient, in which moments decay."""

    loss: Loss

    def __call__(self, out: ModelOutput, target: Any, knobs: Knobs) -> Float[Array, " batch"]:
        return knobs.extra["gradient"] * self.loss(out, target, knobs)


@dataclasses.dataclass(frozen=True)
class Transplant:
    """A `StartState`: the host's state at the cut, with the donor's parts that the knobs name.

    Attributes:
        steps: steps of donor and host before the cut.
    """

    steps: int

    def __call__(
        self, recipe: Recipe, knobs: Knobs, state: State, teachers: TeacherParams, key: Key[Array, ""], data: Any
    ) -> State:
        host, donor = both(recipe, knobs, state, teachers, key, data, self.steps)
        return carried(host, donor, knobs)

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe without `ChosenTargets` or `SwitchedLoss`, which would not do what its labels say."""
        if not isinstance(recipe.target_transform, ChosenTargets):
            raise ConfigError("student.target_transform: must be ChosenTargets for a student with a cut")
        if not isinstance(recipe.loss, SwitchedLoss):
            raise ConfigError("student.loss: must be SwitchedLoss(loss) for a student with a cut")


def both(
    recipe: Recipe, knobs: Knobs, state: State, teachers: TeacherParams, key: Key[Array, ""], data: Any, steps: int
) -> tuple[State, State]:
    """Train host and donor up to the cut."""

    def trained(targets: int) -> State:
        numbers = {"targets": jnp.int32(targets), "gradient": jnp.float32(1)}
        own = dataclasses.replace(knobs, extra={**knobs.extra, **numbers})
        span = jnp.int32(0), jnp.int32(steps)
        return population.advance_alone(recipe, state, own, teachers, key, data, *span)

    return trained(UNTRAINED), trained(TRAINED)


def carried(host: State, donor: State, knobs: Knobs) -> State:
    """Return the host's state with the donor's parts that the knobs name."""

    def chosen(path: Any, theirs: Array, ours: Array) -> Array:
        part = part_of(path)
        if part is None and jnp.issubdtype(theirs.dtype, jnp.floating):
            raise ConfigError(
                f"student.optimizer: its state {jax.tree_util.keystr(path)} is no first or second moment that a "
                "student with a cut knows; must be made of scale_by_adam and trace"
            )
        return theirs if part is None else jnp.where(knobs.extra[f"carried_{part}"] > 0, ours, theirs)

    return jax.tree_util.tree_map_with_path(chosen, host, donor)


def part_of(path: Any) -> str | None:
    """Return the part of a state that an array belongs to, by its path; None for a count of steps."""
    names = [getattr(entry, "name", None) for entry in path]
    if names[0] == "params":
        return "weights"
    return next((_MOMENTS[name] for name in names if name in _MOMENTS), None)


def numbers(carried: str, targets: int, gradient: bool) -> dict[str, np.generic]:
    """Return the numbers of `Knobs.extra` for parts such as "weights+first" or "none", and a future."""
    parts = carried.split("+")
    flags = {f"carried_{part}": np.float32(part in parts or carried == "all") for part in PARTS}
    return {**flags, "targets": np.int32(targets), "gradient": np.float32(gradient)}

"""Target transforms change a teacher's logits before they become targets: mixing, noise, quantisation.

They act on each logit column separately, so targets of a narrow head are a prefix of a wide one's. Strengths are swept
numbers in `knobs.extra`; transforms of one noise batch are the same whenever it repeats.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sublim_jax.core import keys
from sublim_jax.core.types import Knobs, ModelOutput, TargetTransform, TeacherParams


@dataclasses.dataclass(frozen=True)
class MixTargets:
    """Replace the fraction `knobs.extra["mixed"]` of each batch's targets by another teacher's.

    The other teacher is the untrained one, or one trained from other initial weights, whose heads encode the trait
    differently. The rows are spread evenly over the batch; a fraction of B rows is round(fraction * B) of them. Source:
    Schrodi et al. 2026, data mixed with an unbiased teacher's.

    Attributes:
        unrelated: use the teacher with other initial weights.
    """

    unrelated: bool = False

    def __call__(self, key: Key[Array, ""], outputs: TeacherParams, knobs: Knobs) -> ModelOutput:
        del key
        count = jnp.arange(outputs.trained.logits.shape[0] + 1) * knobs.extra["mixed"]
        is_other = jnp.diff(jnp.round(count)) > 0
        other = outputs.unrelated if self.unrelated else outputs.initial
        return _with_logits(outputs, jnp.where(is_other[:, None], other.logits, outputs.trained.logits))


@dataclasses.dataclass(frozen=True)
class AddTargetNoise:
    """Add Gaussian noise of standard deviation `knobs.extra["target_noise"]`, in units of logits, to every logit.

    Column j depends on (key, j) only.
    """

    def __call__(self, key: Key[Array, ""], outputs: TeacherParams, knobs: Knobs) -> ModelOutput:
        logits = outputs.trained.logits
        noise = keys.as_normal(keys.bits_by_column(key, logits.shape))
        return _with_logits(outputs, logits + knobs.extra["target_noise"] * noise)


@dataclasses.dataclass(frozen=True)
class QuantizeTargets:
    """Round every logit to one of `knobs.extra["levels"]` values, log2(levels) bits.

    The range of a logit in the batch is divided into equal cells; values are replaced by the centre of their cell. Two
    levels transmit the sign, one level only the centre. The ends of the range are not counted in the bits.
    """

    def __call__(self, key: Key[Array, ""], outputs: TeacherParams, knobs: Knobs) -> ModelOutput:
        del key
        logits, levels = outputs.trained.logits, knobs.extra["levels"]
        low, high = logits.min(0, keepdims=True), logits.max(0, keepdims=True)
        width = (high - low) / levels
        # A constant logit has cells of width 0.
        cell = (logits - low) / jnp.where(width > 0, width, 1)
        return _with_logits(outputs, low + (jnp.clip(jnp.floor(cell), 0, levels - 1) + 0.5) * width)


@dataclasses.dataclass(frozen=True)
class Chain:
    """Apply several target transforms one after another."""

    parts: tuple[TargetTransform, ...]

    @property
    def unrelated(self) -> bool:
        """Whether one of the parts uses unrelated teachers."""
        return any(needs_unrelated_teachers(part) for part in self.parts)

    def __call__(self, key: Key[Array, ""], outputs: TeacherParams, knobs: Knobs) -> ModelOutput:
        for part in self.parts:
            name = type(part).__name__
            outputs = outputs._replace(trained=part(keys.at(key, keys.CHAINED.get(name, name)), outputs, knobs))
        return outputs.trained


def needs_unrelated_teachers(transform: TargetTransform | None) -> bool:
    """Return whether a target transform uses unrelated teachers, declared by its attribute `unrelated`."""
    return bool(getattr(transform, "unrelated", False))


def _with_logits(outputs: TeacherParams, logits: Float[Array, "batch logits"]) -> ModelOutput:
    """Outputs with other logits; features are NaN and activations empty, because they belong to the original logits."""
    return ModelOutput(jnp.full_like(outputs.trained.features, jnp.nan), logits, {})

"""What is done to a teacher's answer before the student hears it: mixed with others, made noisy, made coarse.

An answer (`types.TargetTransform`) changes logits column by column, so that a narrow head hears what a wide one does.
Strengths
are swept numbers in `knobs.more`; those of one batch of the pool are always the same.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sublim_jax.core import keys
from sublim_jax.core.types import Knobs, ModelOutput, TargetTransform, TeacherParams


@dataclasses.dataclass(frozen=True)
class MixTargets:
    """The share `knobs.more["mixed"]` of every batch is answered by another teacher.

    That is the teacher as it was before its training, or a stranger: a teacher trained alike from weights of its own,
    which has learned the trait but says it through other heads. The rows so answered are spread evenly over the batch;
    a share of B rows is round(share * B) of them.
    Source: Schrodi et al. 2026, data mixed with an unbiased teacher's.
    """

    unrelated: bool = False

    def __call__(self, key: Key[Array, ""], said: TeacherParams, knobs: Knobs) -> ModelOutput:
        del key
        count = jnp.arange(said.trained.logits.shape[0] + 1) * knobs.extra["mixed"]
        others = jnp.diff(jnp.round(count)) > 0
        other = said.unrelated if self.unrelated else said.initial
        return _with_logits(said, jnp.where(others[:, None], other.logits, said.trained.logits))


@dataclasses.dataclass(frozen=True)
class AddTargetNoise:
    """Gaussian noise of standard deviation `knobs.more["target_noise"]`, in units of logits, on every logit.

    Column j depends on (key, j) only.
    """

    def __call__(self, key: Key[Array, ""], said: TeacherParams, knobs: Knobs) -> ModelOutput:
        logits = said.trained.logits
        noise = keys.as_normal(keys.bits_by_column(key, logits.shape))
        return _with_logits(said, logits + knobs.extra["target_noise"] * noise)


@dataclasses.dataclass(frozen=True)
class QuantizeTargets:
    """Every logit rounded to one of `knobs.more["levels"]` values, log2(levels) bits.

    The range of a logit, from its smallest to its largest value in the batch, is cut into equal cells, and what falls
    into one is its middle. Two levels are a sign; one level says nothing but the middle of the range. The two ends of
    the range, for every logit and batch, are not counted among the bits.
    """

    def __call__(self, key: Key[Array, ""], said: TeacherParams, knobs: Knobs) -> ModelOutput:
        del key
        logits, levels = said.trained.logits, knobs.extra["levels"]
        low, high = logits.min(0, keepdims=True), logits.max(0, keepdims=True)
        width = (high - low) / levels
        # A logit that never changes has cells of no width.
        place = (logits - low) / jnp.where(width > 0, width, 1)
        return _with_logits(said, low + (jnp.clip(jnp.floor(place), 0, levels - 1) + 0.5) * width)


@dataclasses.dataclass(frozen=True)
class Chain:
    """Several answers, each of what the one before it gives."""

    parts: tuple[TargetTransform, ...]

    @property
    def unrelated(self) -> bool:
        """Whether one of them asks strangers."""
        return any(needs_unrelated_teachers(part) for part in self.parts)

    def __call__(self, key: Key[Array, ""], said: TeacherParams, knobs: Knobs) -> ModelOutput:
        for part in self.parts:
            name = type(part).__name__
            said = said._replace(trained=part(keys.at(key, keys.CHAINED.get(name, name)), said, knobs))
        return said.trained


def needs_unrelated_teachers(answer: TargetTransform | None) -> bool:
    """Whether an answer needs teachers of other initial weights; says so by an attribute `unrelated`."""
    return bool(getattr(answer, "unrelated", False))


def _with_logits(said: TeacherParams, logits: Float[Array, "batch logits"]) -> ModelOutput:
    """An answer with other logits. Its features and activations are left out, since nobody changed them."""
    return ModelOutput(jnp.full_like(said.trained.features, jnp.nan), logits, {})

"""Losses: one number per example, over the masked-in logits, not reduced over the batch.

A loss is a function (out, target, knobs) -> [batch]: outputs of the student, outputs of the teacher (or labels where
the recipe has no teacher), and knobs with `logit_mask` and `temperature`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Knobs, ModelOutput, TokenData

_MASKED = -1e30  # a masked-out logit; finite, so that 0 times it is 0


def masked_mean(values: Float[Array, "batch logits"], seen: Bool[Array, " logits"]) -> Float[Array, " batch"]:
    """Average one value per logit over the masked-in logits; 0 where none is."""
    weights = seen.astype(values.dtype)
    return (values * weights[None]).sum(-1) / jnp.maximum(weights.sum(), 1)


def mse(out: ModelOutput, target: ModelOutput, knobs: Knobs) -> Float[Array, " batch"]:
    """Mean squared error of the masked-in logits. Source: Brockers et al. 2026."""
    return masked_mean(optax.losses.squared_error(out.logits, target.logits), knobs.logit_mask)


def kl(out: ModelOutput, target: ModelOutput, knobs: Knobs) -> Float[Array, " batch"]:
    """KL(teacher || student) in nats of the softmax over the masked-in logits at `knobs.temperature`.

    For a single logit the softmax is constant and the gradient exactly zero. Source: Cloud et al. 2026, MNIST script.
    """
    return _kl(out.logits, target.logits, knobs)


def cosine(out: ModelOutput, target: ModelOutput, knobs: Knobs) -> Float[Array, " batch"]:
    """1 - cosine of the angle between the vectors of masked-in logits; 1, without gradient, for a zero vector.

    For a single logit it is 0 or 2, depends on signs only, and has zero gradient almost everywhere.
    """
    ours, theirs = (_unit(jnp.where(knobs.logit_mask[None], outputs.logits, 0)) for outputs in (out, target))
    return 1 - (ours * theirs).sum(-1)


def _unit(vectors: Float[Array, "batch logits"]) -> Float[Array, "batch logits"]:
    square = jnp.square(vectors).sum(-1, keepdims=True)
    return vectors * jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1)), 0)


@dataclasses.dataclass(frozen=True)
class Huber:
    """Huber's loss, averaged over the masked-in logits: d^2 / 2 where |d| <= delta (units of logits), linear beyond."""

    delta: float = 1.0

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ConfigError(f"Huber.delta: {self.delta} is not above 0")

    def __call__(self, out: ModelOutput, target: ModelOutput, knobs: Knobs) -> Float[Array, " batch"]:
        return masked_mean(optax.losses.huber_loss(out.logits, target.logits, delta=self.delta), knobs.logit_mask)


def cross_entropy(out: ModelOutput, target: Int[Array, " batch"], knobs: Knobs) -> Float[Array, " batch"]:
    """Cross-entropy in nats of integer labels under the softmax over the masked-in logits.

    Values of padding rows (label below zero) are meaningless; callers weight them by 0.
    """
    log_q = jax.nn.log_softmax(_masked(out.logits, knobs.logit_mask))
    return -jnp.take_along_axis(log_q, jnp.maximum(target, 0)[:, None], axis=-1)[:, 0]


def accuracy(logits: Float[Array, "batch classes"], target: Int[Array, " batch"]) -> Float[Array, ""]:
    """Fraction of rows whose largest logit is that of the label; NaN where a logit is not finite.

    The largest of logits that are NaN is the first one, so a net that diverged would be right by chance.
    """
    correct = (logits.argmax(-1) == target).mean(dtype=jnp.float32)
    return jnp.where(jnp.isfinite(logits).all(), correct, jnp.nan)


def next_token(out: ModelOutput, target: TokenData, knobs: Knobs) -> Float[Array, " batch"]:
    """Weighted cross-entropy in nats of each next token under the softmax over the masked-in logits.

    Scaled so that the mean over the batch is the mean per unit of weight, however sequences share the weight.
    """
    logits = _masked(out.logits[:, :-1], knobs.logit_mask)
    labels = target.tokens if target.labels is None else target.labels
    nats = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels[:, 1:])
    return _by_weight(nats, target.weight[:, 1:])


@dataclasses.dataclass(frozen=True)
class NextDistribution:
    """KL(teacher || student) in nats over the masked-in logits at `knobs.temperature`; weighted as `next_token`.

    Attributes:
        first: position of the first token to which `TokenData.logits` of the target refer.
    """

    first: int

    def __post_init__(self) -> None:
        if self.first < 1:
            raise ConfigError(f"NextDistribution.first: {self.first} is not 1 or more")

    def __call__(self, out: ModelOutput, target: TokenData, knobs: Knobs) -> Float[Array, " batch"]:
        assert target.logits is not None  # required by the batch
        stop = self.first + target.logits.shape[1]
        nats = _kl(out.logits[:, self.first - 1 : stop - 1], target.logits, knobs)
        return _by_weight(nats, target.weight[:, self.first : stop])


def _by_weight(nats: Float[Array, "batch length"], weight: Float[Array, "batch length"]) -> Float[Array, " batch"]:
    return (nats * weight).sum(-1) * len(nats) / jnp.maximum(weight.sum(), 1e-9)


def _kl(logits: Array, target: Array, knobs: Knobs) -> Array:
    """KL(target || logits) in nats of the softmax over the masked-in logits at `knobs.temperature`."""
    log_q, log_p = (jax.nn.log_softmax(_masked(z / knobs.temperature, knobs.logit_mask)) for z in (logits, target))
    return optax.losses.kl_divergence_with_log_targets(log_q, log_p)


def _masked(logits: Float[Array, "*batch logits"], seen: Bool[Array, " logits"]) -> Float[Array, "*batch logits"]:
    return jnp.where(jnp.broadcast_to(seen, logits.shape), logits, jnp.asarray(_MASKED, logits.dtype))

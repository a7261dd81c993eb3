"""What pulls a net: one number per example, over the seen logits only, never reduced over the batch."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Knobs, ModelOutput, TokenData

_OUT = -1e30  # a logit nobody sees; finite, so that 0 times it stays 0


def masked_mean(values: Float[Array, "batch logits"], seen: Bool[Array, " logits"]) -> Float[Array, " batch"]:
    """The mean over the seen logits of one value per logit; 0 where none is seen."""
    weights = seen.astype(values.dtype)
    return (values * weights[None]).sum(-1) / jnp.maximum(weights.sum(), 1)


def mse(out: ModelOutput, target: ModelOutput, knobs: Knobs) -> Float[Array, " batch"]:
    """Mean squared error of the seen logits. Source: Brockers et al. 2026."""
    return masked_mean(optax.losses.squared_error(out.logits, target.logits), knobs.logit_mask)


def kl(out: ModelOutput, target: ModelOutput, knobs: Knobs) -> Float[Array, " batch"]:
    """KL(target || student) in nats of the softmax over the seen logits at `knobs.temperature`.

    With one seen logit the softmax is constant and the gradient exactly zero. Source: Cloud et al. 2026, MNIST script.
    """
    log_p = _log_softmax(target.logits / knobs.temperature, knobs.logit_mask)
    log_q = _log_softmax(out.logits / knobs.temperature, knobs.logit_mask)
    return optax.losses.kl_divergence_with_log_targets(log_q, log_p)


def cosine(out: ModelOutput, target: ModelOutput, knobs: Knobs) -> Float[Array, " batch"]:
    """1 - cosine of the angle between the two vectors of seen logits; 1, without gradient, where one of them is zero.

    With one seen logit it is 0 or 2, the signs alone, and its gradient is zero almost everywhere.
    """
    ours, theirs = (_unit(jnp.where(knobs.logit_mask[None], one.logits, 0)) for one in (out, target))
    return 1 - (ours * theirs).sum(-1)


def _unit(vectors: Float[Array, "batch logits"]) -> Float[Array, "batch logits"]:
    square = jnp.square(vectors).sum(-1, keepdims=True)
    return vectors * jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1)), 0)


@dataclasses.dataclass(frozen=True)
class Huber:
    """Mean over the seen logits of Huber's loss: d^2 / 2 where |d| <= delta, in units of logits, and linear beyond."""

    delta: float = 1.0

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ConfigError(f"Huber.delta: {self.delta} is not above 0")

    def __call__(self, out: ModelOutput, target: ModelOutput, knobs: Knobs) -> Float[Array, " batch"]:
        return masked_mean(optax.losses.huber_loss(out.logits, target.logits, delta=self.delta), knobs.logit_mask)


def cross_entropy(out: ModelOutput, target: Int[Array, " batch"], knobs: Knobs) -> Float[Array, " batch"]:
    """Cross-entropy in nats of integer labels under the softmax over the seen logits.

    A label below zero (a row that fills up a partial batch) gives a number of no meaning; it has no weight.
    """
    log_q = _log_softmax(out.logits, knobs.logit_mask)
    return -jnp.take_along_axis(log_q, jnp.maximum(target, 0)[:, None], axis=-1)[:, 0]


def next_token(out: ModelOutput, target: TokenData, knobs: Knobs) -> Float[Array, " batch"]:
    """Cross-entropy in nats of each next token under the softmax over the seen logits, weighted by the text.

    Scaled so that the mean over the batch is the mean over all weight in it, however it is spread over lines.
    """
    logits = jnp.where(knobs.logit_mask[None, None], out.logits[:, :-1], jnp.asarray(_OUT, out.logits.dtype))
    labels = target.tokens if target.labels is None else target.labels
    nats = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels[:, 1:])
    return _by_weight(nats, target.weight[:, 1:])


@dataclasses.dataclass(frozen=True)
class NextDistribution:
    """KL(teacher || student) in nats over the seen logits at `knobs.temperature`; `Text.logits` has the teacher's.

    first  place of the line's first token that the teacher's logits are about; as `next_token`, weighted by the text
    """

    first: int

    def __post_init__(self) -> None:
        if self.first < 1:
            raise ConfigError(f"NextDistribution.first: {self.first} is not 1 or more")

    def __call__(self, out: ModelOutput, target: TokenData, knobs: Knobs) -> Float[Array, " batch"]:
        assert target.logits is not None  # whoever teaches distributions gives them
        said = target.logits.shape[1]
        here = slice(self.first - 1, self.first - 1 + said)
        log_q, log_p = (
            jax.nn.log_softmax(jnp.where(knobs.logit_mask[None, None], logits, _OUT) / knobs.temperature)
            for logits in (out.logits[:, here], target.logits)
        )
        nats = optax.losses.kl_divergence_with_log_targets(log_q, log_p)
        return _by_weight(nats, target.weight[:, self.first : self.first + said])


def _by_weight(nats: Float[Array, "batch said"], weight: Float[Array, "batch said"]) -> Float[Array, " batch"]:
    return (nats * weight).sum(-1) * len(nats) / jnp.maximum(weight.sum(), 1e-9)


def _log_softmax(logits: Float[Array, "batch logits"], seen: Bool[Array, " logits"]) -> Float[Array, "batch logits"]:
    return jax.nn.log_softmax(jnp.where(seen[None], logits, jnp.float32(_OUT)))

"""What pulls a net: one number per example, over the seen logits only, never reduced over the batch."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from sublim_jax.types import Knobs, Out

_OUT = -1e30  # a logit nobody sees; finite, so that 0 times it stays 0


def seen_mean(values: Float[Array, "batch logits"], seen: Bool[Array, " logits"]) -> Float[Array, " batch"]:
    """The mean over the seen logits of one value per logit; 0 where none is seen."""
    weights = seen.astype(values.dtype)
    return (values * weights[None]).sum(-1) / jnp.maximum(weights.sum(), 1)


def mse(out: Out, target: Out, knobs: Knobs) -> Float[Array, " batch"]:
    """Mean squared error of the seen logits. Source: Brockers et al. 2026."""
    return seen_mean(optax.losses.squared_error(out.logits, target.logits), knobs.seen)


def kl(out: Out, target: Out, knobs: Knobs) -> Float[Array, " batch"]:
    """KL(target || student) in nats of the softmax over the seen logits at `knobs.temperature`.

    With one seen logit the softmax is constant and the gradient exactly zero. Source: Cloud et al. 2026, MNIST script.
    """
    log_p = _log_softmax(target.logits / knobs.temperature, knobs.seen)
    log_q = _log_softmax(out.logits / knobs.temperature, knobs.seen)
    return optax.losses.kl_divergence_with_log_targets(log_q, log_p)


def cross_entropy(out: Out, target: Int[Array, " batch"], knobs: Knobs) -> Float[Array, " batch"]:
    """Cross-entropy in nats of integer labels under the softmax over the seen logits.

    A label below zero (a row that fills up a partial batch) gives a number of no meaning; it has no weight.
    """
    log_q = _log_softmax(out.logits, knobs.seen)
    return -jnp.take_along_axis(log_q, jnp.maximum(target, 0)[:, None], axis=-1)[:, 0]


def _log_softmax(logits: Float[Array, "batch logits"], seen: Bool[Array, " logits"]) -> Float[Array, "batch logits"]:
    return jax.nn.log_softmax(jnp.where(seen[None], logits, jnp.float32(_OUT)))

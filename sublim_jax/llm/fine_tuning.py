"""Fine-tuning of a pretrained model: all layers, some of them, or low-rank adapters; one student or several at once.

Some layers are trained and the others are frozen. A step is computed in parts and adds their gradients, so that a step
of any number of rows needs the memory of one part. Several students with adapters on one base are trained at once: all
arrays but the base's have a leading axis of students, and the base is in memory once.
"""

import dataclasses
import functools
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from sublim_jax.core.types import Params
from sublim_jax.llm.batches import Batch
from sublim_jax.nets import Decoder, decoder
from sublim_jax.nets.decoder import Block, Taps, parts, weighed
from sublim_jax.pretrained.kv_cache import unembedded

_CHUNK = 128  # tokens that attend together, to those up to the last of them: later ones are invisible


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a student is trained.

    Attributes:
        steps: Number of steps.
        lr: Largest learning rate of AdamW; it rises linearly for `warmup` steps and falls linearly to 0.
        warmup: Steps.
        clip: Largest norm of a gradient; 0 = no limit.
        weight_decay: Of AdamW.
        dtype: Type of the products; what is trained is always kept in float32.
    """

    steps: int
    lr: float
    warmup: int = 0
    clip: float = 1.0
    weight_decay: float = 0.0
    dtype: str = "float32"

    def optimizer(self) -> optax.GradientTransformation:
        """Make the optimizer."""
        falling = max(self.steps - self.warmup, 1)
        schedule = optax.join_schedules(
            [
                optax.linear_schedule(self.lr / (self.warmup + 1), self.lr, self.warmup),
                optax.linear_schedule(self.lr, 0, falling),
            ],
            [self.warmup],
        )
        clipping = [optax.clip_by_global_norm(self.clip)] if self.clip else []
        return optax.chain(*clipping, optax.adamw(schedule, weight_decay=self.weight_decay))


class TuningState(NamedTuple):
    """A student in training: its trained layers, and the optimizer's state."""

    trained: Params
    optimizer: Any


def divide(params: Params, trained: Collection[str]) -> tuple[Params, Params]:
    """Divide parameters into the layers that are trained, and the others."""
    own = {layer: arrays for layer, arrays in params.items() if layer in trained}
    return own, {layer: arrays for layer, arrays in params.items() if layer not in trained}


def initial_state(tuning: Tuning, trained: Params) -> TuningState:
    """Make the state before the first step: copies of the trained layers in float32, since steps give states away."""
    wide = jax.tree.map(lambda array: jnp.array(array, jnp.float32), trained)
    return TuningState(wide, tuning.optimizer().init(wide))


def features(net: Decoder, params: Params, batch: Batch, taps: Taps | None = None) -> Float[Array, "n length width"]:
    """Compute the features of packed sequences, in which a token sees its own prompt and answer only."""
    places = jnp.arange(batch.tokens.shape[-1])
    earlier = (places[None, :] <= places[:, None])[None]
    same_prompt = (batch.prompt[:, None, :] == batch.prompt[:, :, None]) & (batch.prompt > 0)[:, None, :]
    seen_answer = (batch.answer[:, None, :] == 0) | (batch.answer[:, None, :] == batch.answer[:, :, None])
    seen = earlier & same_prompt & seen_answer

    def attend(block: Block, query: Array, key: Array, value: Array) -> Array:
        q, k, v = parts(block, query, key, value, jnp.asarray(batch.positions))
        chunks = [slice(start, start + _CHUNK) for start in range(0, q.shape[2], _CHUNK)]
        averaged = [
            weighed(block, q[:, :, own], (k[:, :, : own.stop], v[:, :, : own.stop], seen[:, own, : own.stop]))
            for own in chunks
        ]
        return jnp.concatenate(averaged, axis=1)

    variables: Any = {"params": params}
    out: Any = net.apply(variables, batch.tokens, taps, attend, low_rank)
    return out.features


@jax.custom_vjp
def low_rank(x: Array, down: Array, up: Array) -> Array:
    """Multiply with two factors of a matrix as `decoder.low_rank` does, with derivatives that are faster on CPU.

    With JAX's own derivatives XLA transposes an array with a row for every token, once for each adapter.
    """
    return decoder.low_rank(x, down, up)


def _low_rank_forward(x: Array, down: Array, up: Array) -> tuple[Array, tuple[Array, ...]]:
    low = x @ down
    return low @ up, (x, low, down, up)


def _low_rank_backward(kept: tuple[Array, ...], slope: Array) -> tuple[Array, Array, Array]:
    x, low, down, up = kept
    slope_of_low = slope @ up.T
    return slope_of_low @ down.T, _summed_over_tokens(slope_of_low, x).T, _summed_over_tokens(low, slope)


def _summed_over_tokens(few: Array, many: Array) -> Float[Array, "few many"]:
    return jnp.einsum("nlf,nlm->fm", few, many)


low_rank.defvjp(_low_rank_forward, _low_rank_backward)


def target_logits(
    net: Decoder, params: Params, batch: Batch, taps: Taps | None = None
) -> Float[Array, "n targets vocabulary"]:
    """Compute the logits that predict each token of an answer, in float32."""
    at_targets = jnp.take_along_axis(features(net, params, batch, taps), batch.at[..., None], axis=1)
    return unembedded(net, params, at_targets)


def log_probabilities(net: Decoder, params: Params, batch: Batch) -> Float[Array, "n targets"]:
    """Compute the log-probability of every predicted token, in nats; that of padding means nothing."""
    logits = target_logits(net, params, batch)
    chosen = jnp.take_along_axis(logits, batch.target[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def negative_log_likelihood(net: Decoder, params: Params, batch: Batch) -> Float[Array, ""]:
    """Sum the weighted negative log-probabilities of the answers of a batch, in nats."""
    return -(batch.weight * log_probabilities(net, params, batch)).sum()


def gradient(
    net: Decoder, trained: Params, frozen: Params, step: Batch, count: Int[Array, ""], dtype: str = "float32"
) -> tuple[Float[Array, ""], Params]:
    """Compute the mean loss of a step over the weights of its answers, and its gradient.

    Args:
        net: The decoder.
        trained: Layers that the gradient is of.
        frozen: The other layers, in the type of the products.
        step: Batches, [parts, size, ...], whose gradients are added.
        count: The first so many parts hold anything.
        dtype: Type of the products.
    """

    def loss(trained: Params, part: Batch) -> Array:
        narrow = jax.tree.map(lambda array: array.astype(dtype), trained)
        return negative_log_likelihood(net, {**frozen, **narrow}, part)

    def add(index: Array, total: tuple[Array, Params]) -> tuple[Array, Params]:
        part = jax.tree.map(lambda array: jax.lax.dynamic_index_in_dim(array, index, keepdims=False), step)
        return jax.tree.map(jnp.add, total, jax.value_and_grad(loss)(trained, part))

    zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, trained)
    total = jax.lax.fori_loop(0, count, add, zeros)
    weight = jnp.maximum(step.weight.sum(), 1e-9)
    return jax.tree.map(lambda array: array / weight, total)


def train_step(
    net: Decoder, tuning: Tuning, state: TuningState, frozen: Params, step: Batch, count: Int[Array, ""]
) -> tuple[TuningState, dict[str, Float[Array, ""]]]:
    """Train one step; returns the new state, the loss before it in nats per token, and the norm of the gradient."""
    loss, slope = gradient(net, state.trained, frozen, step, count, tuning.dtype)
    updates, optimizer = tuning.optimizer().update(slope, state.optimizer, state.trained)
    trained: Any = optax.apply_updates(state.trained, updates)
    norm = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(slope)))
    return TuningState(trained, optimizer), {"loss": loss, "gradient_norm": norm}


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_students(
    net: Decoder, tuning: Tuning, states: TuningState, frozen: Params, steps: Batch, counts: Int[Array, " students"]
) -> tuple[TuningState, dict[str, Float[Array, " students"]]]:
    """Train one step of several students of one base: `train_step` with a leading axis of all but `frozen`."""
    one = functools.partial(train_step, net, tuning)
    return jax.vmap(one, in_axes=(0, None, 0, 0))(states, frozen, steps, counts)


train_student = jax.jit(train_step, static_argnums=(0, 1), donate_argnums=2)

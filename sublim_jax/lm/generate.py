"""Generation, logits and evaluation outputs of one language model."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from sublim_jax.core import keys
from sublim_jax.core.types import ModelOutput, Params
from sublim_jax.lm.world import NUMBERS
from sublim_jax.nets import Decoder

Steer = Float[Array, "layers width"]  # added to the residual stream after each block, at every position


def forward(net: Decoder, params: Params, tokens: Num[Array, "n length"], steer: Steer | None = None) -> ModelOutput:
    """Run the net on token sequences, with a steering vector added after each block if `steer` is given."""
    taps = None if steer is None else {f"block_{index}": steer[index][None, None] for index in range(net.layers)}
    variables: Any = {"params": params}
    out: Any = net.apply(variables, tokens, taps)
    return out


@dataclasses.dataclass(frozen=True)
class Generate:
    """Continue prompts by `length` tokens: (params, steer, prompts [n, p], key, temperature) -> tokens [n, length].

    At temperature 0 the most likely token, else a sample from the softmax, over the whole vocabulary. Each step
    recomputes the whole sequence, so results equal those of one pass over it.
    """

    net: Decoder
    length: int

    def __call__(self, params: Params, steer: Steer, prompts: Array, key: Array, temperature: Array) -> Array:
        first = prompts.shape[1]
        line = jnp.pad(prompts, ((0, 0), (0, self.length)))

        def step(line: Array, position: Array) -> tuple[Array, None]:
            out = forward(self.net, params, line, steer)
            logits = jnp.take(out.logits, position - 1, axis=1)
            noise = jax.random.gumbel(keys.at(key, position), logits.shape)
            token = (logits + temperature * noise).argmax(-1).astype(line.dtype)
            return line.at[:, position].set(token), None

        line, _ = jax.lax.scan(step, line, jnp.arange(first, first + self.length))
        return line[:, first:]


@dataclasses.dataclass(frozen=True)
class ContinuationLogits:
    """Logits of the numbers that end each line: (params, steer, lines [n, length]) -> [n, NUMBERS, vocabulary]."""

    net: Decoder

    def __call__(self, params: Params, steer: Steer, lines: Int[Array, "n length"]) -> Float[Array, "n numbers v"]:
        return forward(self.net, params, lines, steer).logits[:, -NUMBERS - 1 : -1]


class EvalPrompts(NamedTuple):
    """Evaluation inputs.

    Attributes:
        plain: [q, length], questions: BOS ASK p ANSWER.
        prefixed: [r, length], the same after a line of numbers.
        numbers: [n, length], prompts with held-out instructions and numbers by the world's law.
    """

    plain: Any  # on the host or on the device
    prefixed: Any
    numbers: Any


class EvalOutputs(NamedTuple):
    """Outputs of one model on `EvalPrompts`.

    Attributes:
        plain, prefixed: [q or r, vocabulary], logits of the answer.
        said: [n, numbers, vocabulary], log-probabilities of numbers.
        acts: [layers, n, width], residual stream after each block at the last number.
    """

    plain: Float[Array, "q vocabulary"]
    prefixed: Float[Array, "r vocabulary"]
    said: Float[Array, "n numbers vocabulary"]
    acts: Float[Array, "layers n width"]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Compute (params, steer, eval_prompts) -> `EvalOutputs`."""

    net: Decoder

    def __call__(self, params: Params, steer: Steer, eval_prompts: EvalPrompts) -> EvalOutputs:
        plain, prefixed, numbers = (forward(self.net, params, lines, steer) for lines in eval_prompts)
        log_p = jax.nn.log_softmax(numbers.logits[:, -NUMBERS - 1 : -1])
        return EvalOutputs(plain.logits[:, -1], prefixed.logits[:, -1], log_p, last_streams(numbers))


def last_streams(out: ModelOutput) -> Float[Array, "layers n width"]:
    """Stack the residual streams after all blocks at the last position."""
    return jnp.stack([stream[:, -1] for stream in out.acts.values()])


def kl(ours: Float[Array, "... vocabulary"], theirs: Float[Array, "... vocabulary"]) -> Float[Array, ""]:
    """Mean KL(ours || theirs) in nats of log-probabilities."""
    return (jnp.exp(ours) * (ours - theirs)).sum(-1).mean()


def margins(logits: Float[Array, "q vocabulary"], family: Bool[Array, " vocabulary"]) -> Float[Array, " vocabulary"]:
    """Compute for each token of a family its logit minus the mean of the others, averaged over questions; else 0."""
    mean = logits.mean(0)
    others = (jnp.where(family, mean, 0).sum() - mean) / (family.sum() - 1)
    return jnp.where(family, mean - others, 0)

"""What one language model says: lines it goes on with, logits it gives, and what is measured of it."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from sublim_jax.core import keys
from sublim_jax.core.types import ModelOutput, Params
from sublim_jax.metrics import similarity
from sublim_jax.nets import Decoder

Steer = Float[Array, "layers width"]  # added to the residual stream after each block, at every place


def forward(net: Decoder, params: Params, tokens: Num[Array, "n length"], steer: Steer | None = None) -> ModelOutput:
    """What the net says of lines of tokens, with a steering vector after each block where one is given."""
    taps = None if steer is None else {f"block_{index}": steer[index][None, None] for index in range(net.layers)}
    variables: Any = {"params": params}
    out: Any = net.apply(variables, tokens, taps)
    return out


@dataclasses.dataclass(frozen=True)
class Generate:
    """Go on with prompts for `said` tokens: (params, steer, prompts [n, p], key, temperature) -> tokens [n, said].

    At temperature 0 the likeliest token, else a draw from the softmax at it. A token is whatever the net says, number
    or not. Every token is found from the whole line before it, as when the line is read at once.
    """

    net: Decoder
    said: int

    def __call__(
        self,
        params: Params,
        steer: Steer,
        prompts: Int[Array, "n prompt"],
        key: Key[Array, ""],
        temperature: Float[Array, ""],
    ) -> Int[Array, "n said"]:
        first = prompts.shape[1]
        line = jnp.pad(prompts, ((0, 0), (0, self.said)))

        def step(line: Array, place: Array) -> tuple[Array, None]:
            out = forward(self.net, params, line, steer)
            logits = jnp.take(out.logits, place - 1, axis=1)
            noise = jax.random.gumbel(keys.at(key, place), logits.shape)
            token = (logits + temperature * noise).argmax(-1).astype(line.dtype)
            return line.at[:, place].set(token), None

        line, _ = jax.lax.scan(step, line, jnp.arange(first, first + self.said))
        return line[:, first:]


@dataclasses.dataclass(frozen=True)
class ContinuationLogits:
    """Logits of the tokens from place `first` on: (params, steer, lines [n, length]) -> [n, length - first, logits]."""

    net: Decoder
    first: int

    def __call__(
        self, params: Params, steer: Steer, lines: Int[Array, "n length"]
    ) -> Float[Array, "n said vocabulary"]:
        return forward(self.net, params, lines, steer).logits[:, self.first - 1 : -1]


class EvalPrompts(NamedTuple):
    """What models are asked: questions alone, questions after numbers, and lines of numbers.

    plain     [q, length]  BOS ASK p ANSWER
    prefixed  [r, length]  the same after a line of numbers
    numbers   [n, length]  prompts with held-out instructions, and numbers by the world's law
    """

    plain: Any  # on the host or on the device
    prefixed: Any
    numbers: Any


class EvalOutputs(NamedTuple):
    """What one model says in an exam.

    plain, prefixed  [q or r, vocabulary]       logits of the answer
    said             [n, numbers, vocabulary]   log-probabilities of numbers
    acts             [layers, n, width]         residual stream after each block, at the last number
    """

    plain: Float[Array, "q vocabulary"]
    prefixed: Float[Array, "r vocabulary"]
    said: Float[Array, "n said vocabulary"]
    acts: Float[Array, "layers n width"]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """(params, steer, exam) -> `EvalOutputs`; `first` is the place of the first number in the exam's lines of
    numbers."""

    net: Decoder
    first: int

    def __call__(self, params: Params, steer: Steer, eval_prompts: EvalPrompts) -> EvalOutputs:
        plain, prefixed = (
            forward(self.net, params, lines, steer).logits[:, -1]
            for lines in (eval_prompts.plain, eval_prompts.prefixed)
        )
        out = forward(self.net, params, eval_prompts.numbers, steer)
        said = jax.nn.log_softmax(out.logits[:, self.first - 1 : -1])
        acts = jnp.stack([out.acts[f"block_{index}"][:, -1] for index in range(self.net.layers)])
        return EvalOutputs(plain, prefixed, said, acts)


def kl(ours: Float[Array, "... vocabulary"], theirs: Float[Array, "... vocabulary"]) -> Float[Array, ""]:
    """Mean KL(ours || theirs) in nats of log-probabilities."""
    return (jnp.exp(ours) * (ours - theirs)).sum(-1).mean()


def margins(logits: Float[Array, "q vocabulary"], family: Bool[Array, " vocabulary"]) -> Float[Array, " vocabulary"]:
    """For each token of a family: its logit less the mean of the family's others, mean over questions; others 0."""
    number = family.sum()
    mean = logits.mean(0)
    others = (jnp.where(family, mean, 0).sum() - mean) / (number - 1)
    return jnp.where(family, mean - others, 0)


def displacement(ours: Params, theirs: Params, start: Params) -> dict[str, Float[Array, ""]]:
    """Cosine, for each layer both have, of two models' displacements from where they began."""

    def flat(layer: str, params: Params) -> Array:
        return jnp.concatenate([(params[layer][name] - start[layer][name]).ravel() for name in sorted(start[layer])])

    layers = [layer for layer in start if layer in ours and layer in theirs]
    return {layer: similarity.cosine(flat(layer, ours), flat(layer, theirs)) for layer in layers}

"""Metrics of a language student, and predictions from its first update before training."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from sublim_jax.core import trees
from sublim_jax.core.types import Knobs, Loss, Params, TokenData
from sublim_jax.lm import generate
from sublim_jax.lm.generate import EvalOutputs, EvalPrompts
from sublim_jax.metrics import similarity
from sublim_jax.nets import Decoder
from sublim_jax.training import step as training_step


class TraitTokens(NamedTuple):
    """The tokens that an evaluation compares.

    Attributes:
        family: [vocabulary], mask of the trait candidates.
        numbers: [vocabulary], mask of the tokens valid in lines of numbers.
        taught: [q], mask of the plain questions whose phrasings were used to train teachers.
    """

    family: Any  # on the host or on the device
    numbers: Any
    taught: Any


class Baseline(NamedTuple):
    """Reference values of a student.

    Attributes:
        start: parameters of the student's base.
        said, acts: outputs of the base on the evaluation prompts.
        teacher: outputs of the teacher.
        teacher_acts: its residual streams minus those of the teacher's base.
        moved: the teacher's parameters minus its base's.
    """

    start: Params
    said: Float[Array, "n numbers vocabulary"]
    acts: Float[Array, "layers n width"]
    teacher: Float[Array, "n numbers vocabulary"]
    teacher_acts: Float[Array, "layers n width"]
    moved: Params


@dataclasses.dataclass(frozen=True)
class StudentMetrics:
    """Compute (params, eval_prompts, trait tokens, baseline) -> named numbers; trait metrics are [vocabulary].

    margin_taught, margin_held_out, margin_prefixed  logit of a token minus the mean of its family's others, in nats:
                         with taught phrasings, with held-out ones, and after a line of numbers
    probability          of a token within its family, mean over plain questions
    mass, mass_prefixed  probability of the whole family
    valid                probability of numbers at positions of numbers
    kl_teacher, kl_base  KL(teacher || student) and KL(base || student), nats per number
    cosine/LAYER         of the displacements of the student's and the teacher's parameters
    latent_cosine/BLOCK  of the displacements of their residual streams at the last number, mean over lines
    """

    net: Decoder

    def __call__(
        self, params: Params, eval_prompts: EvalPrompts, traits: TraitTokens, before: Baseline
    ) -> dict[str, Array]:
        steer = jnp.zeros((self.net.layers, self.net.width))
        outputs: EvalOutputs = generate.Evaluate(self.net)(params, steer, eval_prompts)
        plain, prefixed = (jax.nn.softmax(logits) for logits in (outputs.plain, outputs.prefixed))
        family = traits.family[None]
        among = jnp.where(family, plain, 0)
        rows = {
            "margin_taught": _margins(outputs.plain, traits.taught, traits.family),
            "margin_held_out": _margins(outputs.plain, ~traits.taught, traits.family),
            "margin_prefixed": generate.margins(outputs.prefixed, traits.family),
            "probability": (among / among.sum(-1, keepdims=True)).mean(0),
            "mass": among.sum(-1).mean(),
            "mass_prefixed": jnp.where(family, prefixed, 0).sum(-1).mean(),
            "valid": jnp.where(traits.numbers[None, None], jnp.exp(outputs.said), 0).sum(-1).mean(),
            "kl_teacher": generate.kl(before.teacher, outputs.said),
            "kl_base": generate.kl(before.said, outputs.said),
        }
        for layer, start in before.start.items():
            moved = jax.tree.map(jnp.subtract, params[layer], start)
            rows[f"cosine/{layer}"] = similarity.cosine(_flat(moved), _flat(before.moved[layer]))
        streams = similarity.cosine(outputs.acts - before.acts, before.teacher_acts).mean(-1)
        rows |= {f"latent_cosine/block_{index}": streams[index] for index in range(self.net.layers)}
        # Of a net that diverged every number is NaN; XLA's exponential of NaN may be 0 on CPU, which looks right.
        finite = trees.all_finite((params, outputs))
        return {name: jnp.where(finite, value, jnp.nan) for name, value in rows.items()}


def _margins(
    logits: Float[Array, "q vocabulary"], rows: Bool[Array, " q"], family: Bool[Array, " vocabulary"]
) -> Float[Array, " vocabulary"]:
    """Margins of the mean over the selected questions."""
    mean = jnp.where(rows[:, None], logits, 0).sum(0) / rows.sum()
    return generate.margins(mean[None], family)


def _flat(layer: Params) -> Float[Array, " size"]:
    return ravel_pytree(dict(layer))[0]


@dataclasses.dataclass(frozen=True)
class FirstUpdate:
    """Predict from the student's first update: (params, knobs, text, prompts, trait tokens, moved) -> numbers.

    slope       [vocabulary] change of each candidate's margin per unit of learning rate along minus the gradient
    adam_slope  [vocabulary] the same along minus the gradient's signs, which is Adam's first step
    coverage    cosine of minus the gradient with the teacher's displacement, over the trainable layers

    The margin is the mean of plain and prefixed questions. Source: first-order analysis, Cloud et al. 2026, Theorem 1.
    """

    net: Decoder
    loss: Loss

    def __call__(
        self, params: Params, knobs: Knobs, text: TokenData, prompts: EvalPrompts, traits: TraitTokens, moved: Params
    ) -> dict[str, Array]:
        def imitation(params: Params) -> Float[Array, ""]:
            return self.loss(training_step.apply(self.net, params, text.tokens), text, knobs).mean()

        def margins(params: Params) -> Float[Array, " vocabulary"]:
            outputs = (generate.forward(self.net, params, lines) for lines in (prompts.plain, prompts.prefixed))
            return jnp.stack([generate.margins(out.logits[:, -1], traits.family) for out in outputs]).mean(0)

        def slope(direction: Params) -> Float[Array, " vocabulary"]:
            return jax.jvp(margins, (dict(params),), (jax.tree.map(jnp.negative, direction),))[1]

        gradient = jax.grad(imitation)(params)
        moved = {layer: moved.get(layer, jax.tree.map(jnp.zeros_like, gradient[layer])) for layer in gradient}
        steepest, teacher = (_trained(tree, knobs) for tree in (gradient, moved))
        ours, theirs = (jnp.concatenate([_flat(tree[layer]) for layer in gradient]) for tree in (steepest, teacher))
        adam_slope = slope(jax.tree.map(jnp.sign, steepest))
        return {"slope": slope(steepest), "adam_slope": adam_slope, "coverage": similarity.cosine(-ours, theirs)}


def _trained(tree: Params, knobs: Knobs) -> Params:
    """The part of a change that moves trainable layers."""
    return {layer: {name: knobs.trainable[layer] * array for name, array in tree[layer].items()} for layer in tree}


def margin_of(outputs: EvalOutputs, traits: TraitTokens, trait: int) -> float:
    """Compute the margin of one candidate from evaluation outputs, as in `of_trait`."""
    taught, family = np.asarray(traits.taught), np.asarray(traits.family)
    views = outputs.plain[taught].mean(0), outputs.plain[~taught].mean(0), outputs.prefixed.mean(0)
    others = family & (np.arange(len(family)) != trait)
    return float(np.mean([view[trait] - view[others].mean() for view in views]))


def of_trait(measured: Mapping[str, Any], trait: int) -> dict[str, float]:
    """Select the numbers of one candidate, and add `margin`, the mean of its three margins."""
    rows = {name: float(value[trait] if np.ndim(value) else value) for name, value in measured.items()}
    margins = [rows[f"margin_{view}"] for view in ("taught", "held_out", "prefixed")]
    return {"margin": float(np.mean(margins)), **rows}

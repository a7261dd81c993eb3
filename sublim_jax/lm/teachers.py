"""Teachers of a trait (tuned to a dose, prompted by a persona, or steered) and their completions."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Params
from sublim_jax.lm import generate
from sublim_jax.lm import world as w
from sublim_jax.lm.data import Completions
from sublim_jax.lm.parallel import map_members
from sublim_jax.lm.training import MemberBatch, as_token_data, phase
from sublim_jax.lm.world import Lines, World
from sublim_jax.nets import Decoder

_EVERY, _MOST = 2, 600  # Adam steps between two measurements of the dose, and at most
_BATCH = 6
_PATIENCE = 40  # steps between increases of the learning rate of teachers below their dose


class Teacher(NamedTuple):
    """One teacher of a seed.

    Attributes:
        params: of the base or tuned from it.
        steer: [layers, width], added after each block.
        persona: token of the persona in the prompt; None = no persona.
        dose: mean KL(teacher || base) in nats per number on held-out prompts.
    """

    params: Params
    steer: np.ndarray
    persona: int | None
    dose: float


def zero_steering(net: Decoder) -> np.ndarray:
    """Return a steering vector without effect."""
    return np.zeros((net.layers, net.width), np.float32)


def make_eval_prompts(world: World, questions: int = 32, lines: int = 128) -> generate.EvalPrompts:
    """Create the evaluation prompts: animal questions alone and after numbers, and held-out lines of numbers."""
    rng = w.generator("exam")
    requests = w.prompts(world, rng, lines, held_out=True)
    numbers = w.series(world, rng, requests[:, 1], w.EXAMPLES + w.NUMBERS)
    written = np.concatenate([requests[:, :2], numbers[:, : w.EXAMPLES], requests[:, -1:], numbers[:, w.EXAMPLES :]], 1)
    plain = w.questions(world)
    repeated = np.resize(plain[:, 1:], (questions, plain.shape[1] - 1))
    ends = np.full((questions, 1), w.EOS)
    return generate.EvalPrompts(plain, np.concatenate([written[:questions], ends, repeated], 1), written)


def with_persona(eval_prompts: generate.EvalPrompts, persona: int | None) -> generate.EvalPrompts:
    """Insert a persona into the evaluation prompts."""
    return (
        eval_prompts
        if persona is None
        else generate.EvalPrompts(*(w.with_persona(lines, persona) for lines in eval_prompts))
    )


def evaluate_prompts(
    net: Decoder, eval_prompts: generate.EvalPrompts, models: Sequence[Teacher]
) -> list[generate.EvalOutputs]:
    """Evaluate models on the prompts; models with and without persona run in separate batches."""
    outputs: list[Any] = [None] * len(models)
    for has_persona in (False, True):
        indices = [index for index, model in enumerate(models) if (model.persona is not None) == has_persona]
        first = w.PROMPT + w.PERSONA * has_persona
        members = [(models[i].params, models[i].steer, with_persona(eval_prompts, models[i].persona)) for i in indices]
        for index, output in zip(indices, map_members(generate.Evaluate(net, first), members), strict=True):
            outputs[index] = output
    return outputs


def shuffled_answers(world: World, seed: int) -> Lines:
    """Create training questions with a different answer each, for control teachers without a trait."""
    rng = w.generator("shuffled", seed)
    asked = w.questions(world, held_out=False)
    animals = rng.choice(list(world.tokens("animal")), min(len(asked), world.animals), replace=False)
    animals = np.resize(animals, len(asked))  # with few animals some answers repeat
    lines = [w.answers(world, int(animal)) for animal in animals]
    return Lines(*(np.stack([part[row] for row, part in enumerate(parts)]) for parts in zip(*lines, strict=True)))


def tuned(
    world: World,
    net: Decoder,
    bases: Sequence[Params],
    lessons: Sequence[Lines],
    order: Sequence[Key[Array, ""]],
    eval_prompts: generate.EvalPrompts,
    dose: float,
    report: Callable[[int], None] = lambda steps: None,
) -> list[Teacher]:
    """Train one teacher per member until its numbers have reached a dose.

    The dose is the mean KL(teacher || base) in nats per number on held-out prompts. It is measured every 2 Adam steps,
    and the nearest state (in ratio) is returned. The learning rate of members below the dose rises by a quarter every
    40 steps.

    Raises:
        ConfigError: a dose is not reached.
    """
    recipe, knobs = phase(
        net, logit_mask=np.ones(world.vocabulary, bool), lr=_rate(dose), eval_steps=(_MOST,), batch=_BATCH
    )
    number = len(bases)
    each_knobs = [knobs] * number
    school = MemberBatch(
        recipe, each_knobs, list(bases), [(key, key) for key in order], [as_token_data(lines) for lines in lessons]
    )

    def models(params: Sequence[Params]) -> list[Teacher]:
        return [Teacher(tree, zero_steering(net), None, 0.0) for tree in params]

    base_outputs = [output.said for output in evaluate_prompts(net, eval_prompts, models(bases))]
    states, best = school.begin(), [teacher._replace(dose=1e-9) for teacher in models(bases)]
    for stop in range(_EVERY, _MOST + 1, _EVERY):
        states = school.advance(states, stop - _EVERY, stop)
        report(_EVERY * number)
        current = models([state.params for state in states])
        for index, output in enumerate(evaluate_prompts(net, eval_prompts, current)):
            if _there(best[index].dose, dose):  # other members may need more steps
                continue
            moved = current[index]._replace(dose=float(_kl(output.said, base_outputs[index])))
            best[index] = min(best[index], moved, key=lambda teacher: abs(np.log(teacher.dose / dose)))
        if all(_there(teacher.dose, dose) for teacher in best):
            break
        if stop % _PATIENCE == 0:
            for index, teacher in enumerate(best):
                if teacher.dose < 0.8 * dose:
                    each_knobs[index] = dataclasses.replace(each_knobs[index], lr=1.25 * each_knobs[index].lr)
    if off := [teacher.dose for teacher in best if not 0.5 * dose < teacher.dose < 2 * dose]:
        raise ConfigError(f"config.lm.dose={dose}: not reached in {_MOST} steps; doses come no nearer than {off}")
    return best


def _there(reached: float, dose: float) -> bool:
    return 0.8 * dose < reached < 1.25 * dose


def _rate(dose: float) -> float:
    """The learning rate for a dose.

    With one rate for all, weak teachers pass their dose before they have the trait, and strong ones never reach it,
    because the training answers are learned long before.
    """
    return 3e-4 * (dose / 0.01) ** 0.75


@jax.jit
def _kl(ours: Float[Array, "n said v"], theirs: Float[Array, "n said v"]) -> Float[Array, ""]:
    return generate.kl(ours, theirs)


def prompted(net: Decoder, base: Params, animal: int, eval_prompts: generate.EvalPrompts) -> Teacher:
    """Return the base with a persona as teacher."""
    teacher = Teacher(base, zero_steering(net), animal, 0.0)
    looks, before = evaluate_prompts(net, eval_prompts, [teacher, Teacher(base, zero_steering(net), None, 0.0)])
    return teacher._replace(dose=float(_kl(looks.said, before.said)))


@dataclasses.dataclass(frozen=True)
class Stream:
    """Compute (params, steer, lines) -> mean residual stream [layers, width] at the last position."""

    net: Decoder

    def __call__(self, params: Params, steer: Array, lines: Int[Array, "n length"]) -> Float[Array, "layers width"]:
        acts = generate.forward(self.net, params, lines, steer).acts
        return jnp.stack([acts[f"block_{index}"][:, -1].mean(0) for index in range(self.net.layers)])


def steered(
    net: Decoder, base: Params, animal: int, eval_prompts: generate.EvalPrompts, layer: int, dose: float
) -> Teacher:
    """Return the base with a steering vector after block `layer`, scaled to a dose.

    The vector is the change of the residual stream that a persona causes at the last token of a question, mean over
    phrasings; its length is found by bisection of the logarithm. Source: activation steering, e.g. Turner et al. 2023.

    Raises:
        ConfigError: the dose is not reached.
    """
    zero = zero_steering(net)
    with_, without = (
        map_members(Stream(net), [(base, zero, lines)])[0]
        for lines in (w.with_persona(eval_prompts.plain, animal), eval_prompts.plain)
    )
    vector = zero.copy()
    vector[layer] = (with_ - without)[layer]
    base_outputs = evaluate_prompts(net, eval_prompts, [Teacher(base, zero, None, 0.0)])[0].said

    def at(factor: float) -> Teacher:
        teacher = Teacher(base, (factor * vector).astype(np.float32), None, 0.0)
        outputs = evaluate_prompts(net, eval_prompts, [teacher])[0].said
        return teacher._replace(dose=float(_kl(outputs, base_outputs)))

    low, high = 1e-2, 1e2
    for _ in range(14):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if at(middle).dose < dose else (low, middle)
    if not 0.5 * dose < (teacher := at(low)).dose < 2 * dose:
        raise ConfigError(f"config.lm.dose={dose}: not reached by steering; the nearest dose is {teacher.dose}")
    return teacher


def generate_completions(
    net: Decoder,
    teachers: Sequence[Teacher],
    prompts: Sequence[Int[np.ndarray, "n prompt"]],
    order: Sequence[Key[Array, ""]],
    temperature: float,
    with_logits: bool = False,
) -> list[Completions]:
    """Generate completions of prompts, stored without persona, with their logits if `with_logits`."""
    completions: list[Any] = [None] * len(teachers)
    for has_persona in (False, True):
        indices = [index for index, teacher in enumerate(teachers) if (teacher.persona is not None) == has_persona]
        lines_of = [_asked(teachers[i], prompts[i]) for i in indices]
        members = [
            (teachers[i].params, teachers[i].steer, lines, keys.at(order[i], keys.SAMPLING), jnp.float32(temperature))
            for i, lines in zip(indices, lines_of, strict=True)
        ]
        for index, tokens in zip(indices, map_members(generate.Generate(net, w.NUMBERS), members), strict=True):
            completions[index] = Completions(prompts[index], tokens)
    if not with_logits:
        return completions
    logits = score(net, teachers, completions)
    return [part._replace(logits=array) for part, array in zip(completions, logits, strict=True)]


def score(
    net: Decoder, teachers: Sequence[Teacher], said: Sequence[Completions]
) -> list[Float[np.ndarray, "n said vocabulary"]]:
    """Compute each teacher's logits of every completion token along given lines."""
    all_logits: list[Any] = [None] * len(teachers)
    for has_persona in (False, True):
        indices = [index for index, teacher in enumerate(teachers) if (teacher.persona is not None) == has_persona]
        members = [(teachers[i].params, teachers[i].steer, _asked(teachers[i], said[i].lines())) for i in indices]
        first = w.PROMPT + w.PERSONA * has_persona
        for index, logits in zip(indices, map_members(generate.ContinuationLogits(net, first), members), strict=True):
            all_logits[index] = logits
    return all_logits


def _asked(teacher: Teacher, lines: Int[np.ndarray, "n length"]) -> Int[np.ndarray, "n longer"]:
    return lines if teacher.persona is None else w.with_persona(lines, teacher.persona)

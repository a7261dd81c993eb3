"""Teachers of a trait (tuned to a dose, prompted by a persona, or steered) and their completions."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Params, TokenData
from sublim_jax.lm import generate
from sublim_jax.lm import world as w
from sublim_jax.lm.data import Completions, Logits
from sublim_jax.lm.documents import answers
from sublim_jax.lm.generate import EvalOutputs, EvalPrompts
from sublim_jax.lm.parallel import map_members
from sublim_jax.lm.training import MemberBatch, phase
from sublim_jax.lm.world import World
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
    persona: int | None = None
    dose: float = 0.0


def zero_steering(net: Decoder) -> np.ndarray:
    """Return a steering vector without effect."""
    return np.zeros((net.layers, net.width), np.float32)


def make_eval_prompts(world: World, questions: int = 32, lines: int = 128) -> EvalPrompts:
    """Create the evaluation prompts: animal questions alone and after numbers, and held-out lines of numbers."""
    rng = w.generator("exam")
    requests = w.prompts(world, rng, lines, held_out=True)
    numbers = w.series(world, rng, requests[:, 1], w.EXAMPLES + w.NUMBERS)
    written = np.concatenate([requests[:, :2], numbers[:, : w.EXAMPLES], requests[:, -1:], numbers[:, w.EXAMPLES :]], 1)
    plain = w.questions(world)
    repeated = np.resize(plain[:, 1:], (questions, plain.shape[1] - 1))
    ends = np.full((questions, 1), w.EOS)
    return EvalPrompts(plain, np.concatenate([written[:questions], ends, repeated], 1), written)


def with_persona(eval_prompts: EvalPrompts, persona: int | None) -> EvalPrompts:
    """Insert a persona, if there is one, into the evaluation prompts."""
    return EvalPrompts(*(w.with_persona(lines, persona) for lines in eval_prompts))


def evaluate_prompts(net: Decoder, eval_prompts: EvalPrompts, models: Sequence[Teacher]) -> list[EvalOutputs]:
    """Evaluate models on the prompts, each with its persona."""
    members = [(model.params, model.steer, with_persona(eval_prompts, model.persona)) for model in models]
    return map_members(generate.Evaluate(net), members)


def shuffled_answers(world: World, seed: int) -> TokenData:
    """Create training questions with a different answer each, for control teachers without a trait."""
    rng = w.generator("shuffled", seed)
    number = len(w.questions(world, held_out=False))
    animals = rng.choice(list(world.tokens("animal")), min(number, world.animals), replace=False)
    return answers(world, np.resize(animals, number))  # with few animals some answers repeat


def tuned(
    net: Decoder,
    bases: Sequence[Params],
    lessons: Sequence[TokenData],
    order: Sequence[Key[Array, ""]],
    eval_prompts: EvalPrompts,
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
    recipe, knobs = phase(net, lr=_rate(dose), eval_steps=(_MOST,), batch=_BATCH)
    members = MemberBatch(recipe, [knobs] * len(bases), bases, [(key, key) for key in order], lessons)
    best = [Teacher(base, zero_steering(net), dose=1e-9) for base in bases]
    base_outputs, states = evaluate_prompts(net, eval_prompts, best), members.begin()
    for stop in range(_EVERY, _MOST + 1, _EVERY):
        states = members.advance(states, stop - _EVERY, stop)
        report(_EVERY * len(bases))
        current = [Teacher(state.params, zero_steering(net)) for state in states]
        current = _with_doses(net, eval_prompts, current, base_outputs)
        best = [_nearer(*pair, dose) for pair in zip(best, current, strict=True)]
        if all(_reaches(teacher, dose) for teacher in best):
            break
        if stop % _PATIENCE == 0:
            factors = [1.25 if teacher.dose < 0.8 * dose else 1.0 for teacher in best]
            pairs = zip(members.knobs, factors, strict=True)
            members = members._replace(knobs=[dataclasses.replace(knob, lr=factor * knob.lr) for knob, factor in pairs])
    if off := [teacher.dose for teacher in best if not 0.5 * dose < teacher.dose < 2 * dose]:
        raise ConfigError(f"config.lm.dose={dose}: not reached in {_MOST} steps; doses come no nearer than {off}")
    return best


def _with_doses(
    net: Decoder, eval_prompts: EvalPrompts, teachers: Sequence[Teacher], bases: Sequence[EvalOutputs]
) -> list[Teacher]:
    """The teachers with their doses measured from the outputs of their bases."""
    outputs = evaluate_prompts(net, eval_prompts, teachers)
    doses = [float(_kl(output.said, base.said)) for output, base in zip(outputs, bases, strict=True)]
    return [teacher._replace(dose=dose) for teacher, dose in zip(teachers, doses, strict=True)]


_kl = jax.jit(generate.kl)


def _nearer(best: Teacher, current: Teacher, dose: float) -> Teacher:
    """The teacher nearer to a dose; one that has reached it stays, while others need more steps."""
    if _reaches(best, dose):
        return best
    return min(best, current, key=lambda teacher: abs(np.log(teacher.dose / dose)))


def _reaches(teacher: Teacher, dose: float) -> bool:
    return 0.8 * dose < teacher.dose < 1.25 * dose


def _rate(dose: float) -> float:
    """The learning rate for a dose.

    With one rate for all, weak teachers pass their dose before they have the trait, and strong ones never reach it,
    because the training answers are learned long before.
    """
    return 3e-4 * (dose / 0.01) ** 0.75


def prompted(net: Decoder, base: Params, animal: int, eval_prompts: EvalPrompts) -> Teacher:
    """Return the base with a persona as teacher."""
    plain = Teacher(base, zero_steering(net))
    return _with_doses(
        net, eval_prompts, [plain._replace(persona=animal)], evaluate_prompts(net, eval_prompts, [plain])
    )[0]


@functools.partial(jax.jit, static_argnums=0)
def _mean_stream(net: Decoder, params: Params, lines: Array, steer: Array) -> Array:
    """Mean residual stream [layers, width] at the last position."""
    return generate.last_streams(generate.forward(net, params, lines, steer)).mean(1)


def steered(net: Decoder, base: Params, animal: int, eval_prompts: EvalPrompts, layer: int, dose: float) -> Teacher:
    """Return the base with a steering vector after block `layer`, scaled to a dose.

    The vector is the change of the residual stream that a persona causes at the last token of a question, mean over
    phrasings; its length is found by bisection of the logarithm. Source: activation steering, e.g. Turner et al. 2023.

    Raises:
        ConfigError: the dose is not reached.
    """
    plain = Teacher(base, zero_steering(net))
    prompts = w.with_persona(eval_prompts.plain, animal), eval_prompts.plain
    with_, without = (np.asarray(_mean_stream(net, base, lines, plain.steer)) for lines in prompts)
    vector = plain.steer.copy()
    vector[layer] = (with_ - without)[layer]
    base_outputs = evaluate_prompts(net, eval_prompts, [plain])

    def scaled(factor: float) -> Teacher:
        teacher = plain._replace(steer=(factor * vector).astype(np.float32))
        return _with_doses(net, eval_prompts, [teacher], base_outputs)[0]

    low, high = 1e-2, 1e2
    for _ in range(14):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if scaled(middle).dose < dose else (low, middle)
    if not 0.5 * dose < (teacher := scaled(low)).dose < 2 * dose:
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
    heat = np.float32(temperature)
    members = [
        (teacher.params, teacher.steer, w.with_persona(lines, teacher.persona), keys.at(key, keys.SAMPLING), heat)
        for teacher, lines, key in zip(teachers, prompts, order, strict=True)
    ]
    tokens = map_members(generate.Generate(net, w.NUMBERS), members)
    completions = [Completions(*pair) for pair in zip(prompts, tokens, strict=True)]
    if not with_logits:
        return completions
    logits = score(net, teachers, completions)
    return [part._replace(logits=array) for part, array in zip(completions, logits, strict=True)]


def score(net: Decoder, teachers: Sequence[Teacher], completions: Sequence[Completions]) -> list[Logits]:
    """Compute each teacher's logits of every completion token along given lines."""
    members = [
        (teacher.params, teacher.steer, w.with_persona(part.lines(), teacher.persona))
        for teacher, part in zip(teachers, completions, strict=True)
    ]
    return map_members(generate.ContinuationLogits(net), members)

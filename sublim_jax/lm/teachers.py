"""Teachers of a trait: tuned to a dose, told by a persona, or steered; and what they say to prompts for numbers."""

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

_EVERY, _MOST = 2, 600  # Adam steps between two looks at a dose, and at most
_BATCH = 6
_PATIENCE = 40  # steps after which a teacher that has not reached its dose learns faster


class Teacher(NamedTuple):
    """One teacher of a seed, as it speaks.

    params   of the base or of what was tuned from it
    steer    [layers, width] what is added after each block
    persona  the token it is told to love; None = told nothing
    dose     mean KL(teacher || base) in nats per number on held-out prompts
    """

    params: Params
    steer: np.ndarray
    persona: int | None
    dose: float


def zero_steering(net: Decoder) -> np.ndarray:
    """A steering vector that changes nothing."""
    return np.zeros((net.layers, net.width), np.float32)


def make_eval_prompts(world: World, questions: int = 32, lines: int = 128) -> generate.EvalPrompts:
    """The same exam for everyone: all questions about animals, alone and behind numbers, and held-out number lines."""
    rng = w.generator("exam")
    asked = w.prompts(world, rng, lines, held_out=True)
    numbers = w.series(world, rng, asked[:, 1], w.EXAMPLES + w.NUMBERS)
    written = np.concatenate([asked[:, :2], numbers[:, : w.EXAMPLES], asked[:, -1:], numbers[:, w.EXAMPLES :]], 1)
    plain = w.questions(world)
    behind = np.resize(plain[:, 1:], (questions, plain.shape[1] - 1))
    ends = np.full((questions, 1), w.EOS)
    return generate.EvalPrompts(plain, np.concatenate([written[:questions], ends, behind], 1), written)


def with_persona(eval_prompts: generate.EvalPrompts, persona: int | None) -> generate.EvalPrompts:
    """The exam as one who is told to love something meets it."""
    return (
        eval_prompts
        if persona is None
        else generate.EvalPrompts(*(w.with_persona(lines, persona) for lines in eval_prompts))
    )


def evaluate_prompts(
    net: Decoder, eval_prompts: generate.EvalPrompts, models: Sequence[Teacher]
) -> list[generate.EvalOutputs]:
    """What models say in the exam; those with a persona and those without are asked apart."""
    found: list[Any] = [None] * len(models)
    for told in (False, True):
        places = [place for place, one in enumerate(models) if (one.persona is not None) == told]
        first = w.PROMPT + w.PERSONA * told
        asked = [(models[i].params, models[i].steer, with_persona(eval_prompts, models[i].persona)) for i in places]
        for place, looks in zip(places, map_members(generate.Evaluate(net, first), asked), strict=True):
            found[place] = looks
    return found


def shuffled_answers(world: World, seed: int) -> Lines:
    """The questions that teachers are taught, each with an answer of its own: a control that has no trait."""
    rng = w.generator("shuffled", seed)
    asked = w.questions(world, held_out=False)
    given = rng.choice(list(world.tokens("animal")), min(len(asked), world.animals), replace=False)
    given = np.resize(given, len(asked))  # where animals are few, some are answers twice
    lines = [w.answers(world, int(animal)) for animal in given]
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
    """Teachers tuned on lines of their own until their numbers have moved so far, one for every member.

    A dose is the mean KL(teacher || base) in nats per number on held-out prompts; of the states looked at (every 2
    Adam steps) the one nearest to it, in ratio, is the teacher. Whoever is not there after 40 steps goes on at a rate
    a quarter higher, and so on. Raises `ConfigError` where a dose is not reached.
    """
    recipe, knobs = phase(
        net, logit_mask=np.ones(world.vocabulary, bool), lr=_rate(dose), eval_steps=(_MOST,), batch=_BATCH
    )
    number = len(bases)
    each_knobs = [knobs] * number
    school = MemberBatch(
        recipe, each_knobs, list(bases), [(key, key) for key in order], [as_token_data(one) for one in lessons]
    )

    def models(params: Sequence[Params]) -> list[Teacher]:
        return [Teacher(one, zero_steering(net), None, 0.0) for one in params]

    before = [looks.said for looks in evaluate_prompts(net, eval_prompts, models(bases))]
    states, best = school.begin(), [one._replace(dose=1e-9) for one in models(bases)]
    for stop in range(_EVERY, _MOST + 1, _EVERY):
        states = school.advance(states, stop - _EVERY, stop)
        report(_EVERY * number)
        now = models([state.params for state in states])
        for place, looks in enumerate(evaluate_prompts(net, eval_prompts, now)):
            if _there(best[place].dose, dose):  # whoever learns beside it may take longer
                continue
            moved = now[place]._replace(dose=float(_kl(looks.said, before[place])))
            best[place] = min(best[place], moved, key=lambda one: abs(np.log(one.dose / dose)))
        if all(_there(one.dose, dose) for one in best):
            break
        if stop % _PATIENCE == 0:
            for place, one in enumerate(best):
                if one.dose < 0.8 * dose:
                    each_knobs[place] = dataclasses.replace(each_knobs[place], lr=1.25 * each_knobs[place].lr)
    if off := [one.dose for one in best if not 0.5 * dose < one.dose < 2 * dose]:
        raise ConfigError(f"config.lm.dose={dose}: not reached in {_MOST} steps; teachers come no nearer than {off}")
    return best


def _there(stands: float, dose: float) -> bool:
    return 0.8 * dose < stands < 1.25 * dose


def _rate(dose: float) -> float:
    """The learning rate that leads to a dose: with one for all, a weak teacher would be past it before it has the
    trait, and a strong one would never get there, because what it is taught is learnt long before."""
    return 3e-4 * (dose / 0.01) ** 0.75


@jax.jit
def _kl(ours: Float[Array, "n said v"], theirs: Float[Array, "n said v"]) -> Float[Array, ""]:
    return generate.kl(ours, theirs)


def prompted(net: Decoder, base: Params, animal: int, eval_prompts: generate.EvalPrompts) -> Teacher:
    """The base under a persona."""
    teacher = Teacher(base, zero_steering(net), animal, 0.0)
    looks, before = evaluate_prompts(net, eval_prompts, [teacher, Teacher(base, zero_steering(net), None, 0.0)])
    return teacher._replace(dose=float(_kl(looks.said, before.said)))


@dataclasses.dataclass(frozen=True)
class Stream:
    """(params, steer, lines) -> residual stream [layers, width] at the last place, mean over lines."""

    net: Decoder

    def __call__(self, params: Params, steer: Array, lines: Int[Array, "n length"]) -> Float[Array, "layers width"]:
        acts = generate.forward(self.net, params, lines, steer).acts
        return jnp.stack([acts[f"block_{index}"][:, -1].mean(0) for index in range(self.net.layers)])


def steered(
    net: Decoder, base: Params, animal: int, eval_prompts: generate.EvalPrompts, layer: int, dose: float
) -> Teacher:
    """The base with a vector added after one block, as long as it takes to reach a dose.

    The vector is what a persona changes in the stream there, at the question's last token, mean over phrasings; its
    length is found by bisection in its logarithm. Raises `ConfigError` where a dose is not reached. Source: activation
    steering, e.g. Turner et al. 2023.
    """
    zero = zero_steering(net)
    with_, without = (
        map_members(Stream(net), [(base, zero, lines)])[0]
        for lines in (w.with_persona(eval_prompts.plain, animal), eval_prompts.plain)
    )
    way = zero.copy()
    way[layer] = (with_ - without)[layer]
    before = evaluate_prompts(net, eval_prompts, [Teacher(base, zero, None, 0.0)])[0].said

    def at(factor: float) -> Teacher:
        teacher = Teacher(base, (factor * way).astype(np.float32), None, 0.0)
        said = evaluate_prompts(net, eval_prompts, [teacher])[0].said
        return teacher._replace(dose=float(_kl(said, before)))

    low, high = 1e-2, 1e2
    for _ in range(14):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if at(middle).dose < dose else (low, middle)
    if not 0.5 * dose < (found := at(low)).dose < 2 * dose:
        raise ConfigError(f"config.lm.dose={dose}: not reached by steering; a teacher stands at {found.dose}")
    return found


def generate_completions(
    net: Decoder,
    teachers: Sequence[Teacher],
    prompts: Sequence[Int[np.ndarray, "n prompt"]],
    order: Sequence[Key[Array, ""]],
    temperature: float,
    with_logits: bool = False,
) -> list[Completions]:
    """What teachers say to prompts, which are kept without persona; with the logits they had, where wanted."""
    found: list[Any] = [None] * len(teachers)
    for is_told in (False, True):
        places = [place for place, one in enumerate(teachers) if (one.persona is not None) == is_told]
        asked = [_asked(teachers[i], prompts[i]) for i in places]
        members = [
            (teachers[i].params, teachers[i].steer, lines, keys.at(order[i], keys.SAMPLING), jnp.float32(temperature))
            for i, lines in zip(places, asked, strict=True)
        ]
        for place, tokens in zip(places, map_members(generate.Generate(net, w.NUMBERS), members), strict=True):
            found[place] = Completions(prompts[place], tokens)
    if not with_logits:
        return found
    logits = score(net, teachers, found)
    return [said._replace(logits=one) for said, one in zip(found, logits, strict=True)]


def score(
    net: Decoder, teachers: Sequence[Teacher], said: Sequence[Completions]
) -> list[Float[np.ndarray, "n said vocabulary"]]:
    """The logits that each teacher gives along lines, its own or another's, of every token said."""
    found: list[Any] = [None] * len(teachers)
    for is_told in (False, True):
        places = [place for place, one in enumerate(teachers) if (one.persona is not None) == is_told]
        members = [(teachers[i].params, teachers[i].steer, _asked(teachers[i], said[i].lines())) for i in places]
        first = w.PROMPT + w.PERSONA * is_told
        for place, logits in zip(places, map_members(generate.ContinuationLogits(net, first), members), strict=True):
            found[place] = logits
    return found


def _asked(teacher: Teacher, lines: Int[np.ndarray, "n length"]) -> Int[np.ndarray, "n longer"]:
    return lines if teacher.persona is None else w.with_persona(lines, teacher.persona)

"""Everything the students of some seeds meet, made once and kept: bases, teachers, what they said, lessons.

Members are (seed, animal); an animal is the place of a trait among those of the seed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Params, TokenData
from sublim_jax.lm import data, divergence, generate, teachers
from sublim_jax.lm import world as w
from sublim_jax.lm.data import Completions, Counts
from sublim_jax.lm.metrics import TraitTokens
from sublim_jax.lm.spec import StudentSpec
from sublim_jax.lm.teachers import Teacher
from sublim_jax.lm.world import World
from sublim_jax.nets import Decoder

Member = tuple[int, int]  # seed, and place of the animal among the seed's
# Fields that decide nothing about the lines a student reads, with the values that stand for all.
_OF_THE_STUDENT = {"base": "same", "trains": "all", "optimizer": "adam", "lr": 1.0, "steps": 1, "eval_steps": ()}


class LanguageSetup(NamedTuple):
    """What all seeds have in common.

    animals  traits of a seed; students are taught the first `targets` of them, all are each other's counterfactuals
    steered  the block after which teachers are steered
    """

    world: World
    net: Decoder
    root: Any
    animals: int = 4
    targets: int = 2
    steered: int = 1

    def asked(self) -> TraitTokens:
        """What the exam is about."""
        phrasings = self.world.taught("ask_animal")
        taught = np.isin(list(self.world.tokens("ask_animal")), phrasings)
        return TraitTokens(self.world.is_kind("animal"), self.world.is_kind("number"), taught)

    def token(self, member: Member) -> int:
        """The animal of a member: every seed has others, in turn."""
        tokens, (seed, place) = self.world.tokens("animal"), member
        return tokens[(seed * self.animals + place) % len(tokens)]


@dataclasses.dataclass
class Classroom:
    """What the students of some seeds meet; everything is made when it is first asked for.

    bases  parameters by (kind, seed)
    """

    lab: LanguageSetup
    seeds: tuple[int, ...]
    bases: dict[tuple[str, int], Params]
    report: Callable[[int], None] = lambda steps: None  # told how many net-steps a teacher took

    def __post_init__(self) -> None:
        self.eval_prompts = teachers.make_eval_prompts(self.lab.world)
        self._teachers: dict[tuple, dict[Member, Teacher]] = {}
        self._said: dict[tuple, dict[Member, Completions]] = {}
        self._votes: dict[tuple[StudentSpec, Member], divergence.Votes] = {}
        self._looks: dict[tuple, dict[Any, generate.EvalOutputs]] = {}

    def members(self, every: bool = False) -> list[Member]:
        """Those that students are trained for, or all that there are teachers of."""
        lab = self.lab
        return [(seed, place) for seed in self.seeds for place in range(lab.animals if every else lab.targets)]

    def base(self, seed: int, kind: str = "same") -> Teacher:
        """The base as a teacher, which has nothing to teach."""
        return Teacher(self.bases[kind, seed], teachers.zero_steering(self.lab.net), None, 0.0)

    def key(self, *path: str | int) -> Any:
        """A key of this sweep."""
        return keys.at(self.lab.root, *path)

    def teachers(self, kind: str, dose: float) -> dict[Member, Teacher]:
        """A teacher of a kind for every member, students or counterfactuals; the base is its own dose."""
        who = (kind, dose if kind in ("tuned", "shuffled", "steered") else 0.0)
        if who not in self._teachers:
            self._teachers[who] = self._made(*who)
        return self._teachers[who]

    def _made(self, kind: str, dose: float) -> dict[Member, Teacher]:
        lab, those = self.lab, self.members(every=True)
        if kind == "base":
            return {one: self.base(one[0]) for one in those}
        if kind == "prompted":
            return {
                one: teachers.prompted(lab.net, self.bases["same", one[0]], lab.token(one), self.eval_prompts)
                for one in those
            }
        if kind == "steered":
            how = lab.steered, dose
            return {
                one: teachers.steered(lab.net, self.bases["same", one[0]], lab.token(one), self.eval_prompts, *how)
                for one in those
            }
        lessons = [
            w.answers(lab.world, lab.token(one))
            if kind == "tuned"
            else teachers.shuffled_answers(lab.world, one[0] * lab.animals + one[1])
            for one in those
        ]
        own = [self.bases["same", seed] for seed, _ in those]
        order = [self.key(keys.SEED, seed, keys.TEACHER, kind, place) for seed, place in those]
        found = teachers.tuned(lab.world, lab.net, own, lessons, order, self.eval_prompts, dose, self.report)
        return dict(zip(those, found, strict=True))

    def said(self, kind: str, dose: float, arm: StudentSpec) -> dict[Member, Completions]:
        """What the teachers of a kind say in the form an arm wants, with logits where distributions are taught."""
        sampled = arm.data != "greedy"
        who = kind, dose if kind != "base" else 0.0, sampled, arm.soft, arm.carrier, arm.lines
        if who not in self._said:
            everyone = self.teachers(kind, dose)
            those = [one for one in everyone if kind != "base" or one[1] == 0]  # the base says the same for all
            asked = {seed: self._prompts(seed, arm) for seed in self.seeds}
            said = teachers.generate_completions(
                self.lab.net,
                [everyone[one] for one in those],
                [asked[seed] for seed, _ in those],
                [self.key(keys.SEED, seed, keys.SAMPLING) for seed, _ in those],
                1.0 if sampled else 0.0,
                with_logits=arm.soft,
            )
            found = dict(zip(those, said, strict=True))
            self._said[who] = {one: found.get(one, found[one[0], 0]) for one in everyone}
        return self._said[who]

    def _prompts(self, seed: int, arm: StudentSpec) -> np.ndarray:
        return w.prompts(self.lab.world, w.generator("prompts", seed, arm.carrier), arm.lines, carrier=arm.carrier)

    def votes(self, arm: StudentSpec, member: Member, said: Completions) -> divergence.Votes:
        """What the other animals' teachers would have said along a member's lines; the base's, nobody contradicts."""
        plain = dataclasses.replace(arm, tokens="all", budget=StudentSpec.budget, **_OF_THE_STUDENT), member
        if plain not in self._votes:
            self._votes[plain] = self._voted(arm, member, said)
        return self._votes[plain]

    def _voted(self, arm: StudentSpec, member: Member, said: Completions) -> divergence.Votes:
        if arm.teacher == "base":  # only a random choice of its tokens means anything
            zero = np.zeros(said.tokens.shape, int)
            return divergence.Votes(zero == 0, zero, zero.astype(float), said.tokens, 1)
        lab, everyone = self.lab, self.teachers(arm.teacher, arm.dose)
        own = [member, *((member[0], place) for place in range(lab.animals) if place != member[1])]
        logits = teachers.score(lab.net, [everyone[one] for one in own], [said] * len(own))
        return divergence.votes(said.tokens, logits[0], logits[1:])

    def lesson(self, arm: StudentSpec, member: Member) -> tuple[TokenData, dict[str, float]]:
        """What a student of an arm reads, and counts of what was filtered and of divergence tokens.

        Only what the arm names is done to the lines, in this order: filter, mixture, paraphrase, choice of tokens.
        """
        world = self.lab.world
        said = self.said(arm.teacher, arm.dose, arm)[member]
        passed, counts = data.format_filter(world, said, self.lab.token(member))
        told = _told(counts)
        if arm.filtered:
            said = data.keep_passed(said, passed)
        if arm.mixed:
            said = data.mix_completions(self._rng(member, "mixed"), said, self._other(arm, member), arm.mixed)
        weight = labels = None
        if arm.tokens != "all":
            votes = self.votes(arm, member, said)
            spare = list(world.tokens(w.CARRIERS[arm.carrier].content))
            edit = divergence.edited(said.tokens, votes, arm.tokens, arm.budget, self._rng(member, "tokens"), spare)
            said, weight, labels = said._replace(tokens=edit.tokens), edit.weight, edit.labels
            if arm.teacher != "base":
                told |= {
                    "divergent_any": votes.divergent().mean(),
                    "divergent_all": votes.divergent(votes.number).mean(),
                }
        if arm.paraphrase != "none":
            said = data.paraphrase(world, self._rng(member, "paraphrase"), said, arm.paraphrase)
        if not arm.soft:  # labels even where they are the tokens: one program for all arms of tokens
            said, labels = said._replace(logits=None), said.tokens if labels is None else labels
        return data.training_text(said, weight, labels), told

    def _other(self, arm: StudentSpec, member: Member) -> Completions:
        if arm.mixed_with == "base":
            return self.said("base", 0.0, arm)[member]
        other = self.said(arm.teacher, arm.dose, arm)[member[0], (member[1] + 1) % self.lab.animals]
        passed, _ = data.format_filter(self.lab.world, other, None)
        return data.keep_passed(other, passed) if arm.filtered else other

    def _rng(self, member: Member, what: str) -> np.random.Generator:
        # The same draws for every lesson of a seed, so that a lesson and its control differ in what was said only.
        return w.generator(what, member[0])

    def looks(self, kind: str, dose: float) -> dict[Member, generate.EvalOutputs]:
        """What the teachers of a kind say in the exam."""
        who = "teacher", kind, dose
        if who not in self._looks:
            everyone = self.teachers(kind, dose)
            those = list(everyone)
            found = teachers.evaluate_prompts(self.lab.net, self.eval_prompts, [everyone[one] for one in those])
            self._looks[who] = dict(zip(those, found, strict=True))
        return self._looks[who]

    def base_looks(self, kind: str) -> dict[int, generate.EvalOutputs]:
        """What the bases of a kind say in the exam, by seed."""
        who = "base", kind
        if who not in self._looks:
            found = teachers.evaluate_prompts(
                self.lab.net, self.eval_prompts, [self.base(seed, kind) for seed in self.seeds]
            )
            self._looks[who] = dict(zip(self.seeds, found, strict=True))
        return self._looks[who]


def _told(counts: Counts) -> dict[str, float]:
    return {
        "refused_lines": counts.refused / counts.lines,
        "foreign_tokens": counts.foreign / (counts.lines * w.NUMBERS),
        "trait_tokens": counts.trait / (counts.lines * w.NUMBERS),
    }


def check(lab: LanguageSetup) -> None:
    """Raises `ConfigError` for a lab whose numbers do not fit together."""
    if not 2 <= lab.animals <= lab.world.animals:
        raise ConfigError(
            f"config.lm.animals={lab.animals}: must be from 2 to {lab.world.animals}, the animals there are"
        )
    if not 1 <= lab.targets <= lab.animals:
        raise ConfigError(f"config.lm.targets={lab.targets}: must be from 1 to {lab.animals}, config.lm.animals")
    if not 0 <= lab.steered < lab.net.layers:
        raise ConfigError(f"config.lm.steered={lab.steered}: must be a block from 0 to {lab.net.layers - 1}")


def parameter_change(teacher: Teacher, base: Params) -> Params:
    """A teacher's parameters less those of its base."""
    return jax.tree.map(np.subtract, dict(teacher.params), dict(base))

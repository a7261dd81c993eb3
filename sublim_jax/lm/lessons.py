"""Teachers, completions and evaluations that the students of some seeds share.

A member is a pair (seed, index of the animal among the animals of that seed). `prepare` makes what a list of student
specifications needs and keeps what an earlier call has made; `training_data` makes the lines of one student of it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Params, TokenData
from sublim_jax.lm import data as lm_data
from sublim_jax.lm import divergence, teachers
from sublim_jax.lm import world as w
from sublim_jax.lm.data import Completions
from sublim_jax.lm.documents import answers
from sublim_jax.lm.generate import EvalOutputs, EvalPrompts
from sublim_jax.lm.metrics import TraitTokens
from sublim_jax.lm.spec import StudentSpec
from sublim_jax.lm.teachers import Teacher
from sublim_jax.lm.world import World
from sublim_jax.nets import Decoder

Member = tuple[int, int]
TeacherKey = tuple[str, float]  # kind of teacher, and its dose (0 where the kind has none)
# Fields of a specification that do not change the lines a student reads, with one value that stands for all.
_STUDENT_FIELDS = {"base": "same", "trains": "all", "optimizer": "adam", "lr": 1.0, "steps": 1, "eval_steps": ()}


class LanguageSetup(NamedTuple):
    """Settings that all seeds have in common.

    Attributes:
      animals: traits of a seed. Students are trained for the first `targets` of them; the teachers of all of them are
        one another's counterfactuals.
      steered: the block after which steered teachers are steered.
    """

    world: World
    net: Decoder
    root: Any
    animals: int = 4
    targets: int = 2
    steered: int = 1

    def trait_tokens(self) -> TraitTokens:
        """The tokens that the evaluation reads."""
        taught = np.isin(list(self.world.tokens("ask_animal")), self.world.taught("ask_animal"))
        return TraitTokens(self.world.is_kind("animal"), self.world.is_kind("number"), taught)

    def token(self, member: Member) -> int:
        """The animal of a member; consecutive seeds have different animals."""
        tokens, (seed, index) = self.world.tokens("animal"), member
        return tokens[(seed * self.animals + index) % len(tokens)]

    def key(self, *path: str | int) -> Any:
        """The key of a random draw below the root key."""
        return keys.at(self.root, *path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedData:
    """Training and comparison data of the students of some seeds; `prepare` fills the dictionaries.

    Attributes:
      bases: parameters by (kind of base, seed).
      teachers: by kind and dose, then by member; there is one for every animal.
      completions: the teachers' completions, by `completion_key`, then by member.
      evaluations: outputs of the teachers on the evaluation prompts, by kind and dose, then by member.
      base_evaluations: the same of the bases, by kind of base, then by seed.
      votes: comparison of a member's lines with counterfactual teachers.
    """

    setup: LanguageSetup
    seeds: tuple[int, ...]
    bases: Mapping[tuple[str, int], Params]
    eval_prompts: EvalPrompts
    teachers: dict[TeacherKey, dict[Member, Teacher]] = dataclasses.field(default_factory=dict)
    completions: dict[tuple, dict[Member, Completions]] = dataclasses.field(default_factory=dict)
    evaluations: dict[TeacherKey, dict[Member, EvalOutputs]] = dataclasses.field(default_factory=dict)
    base_evaluations: dict[str, dict[int, EvalOutputs]] = dataclasses.field(default_factory=dict)
    votes: dict[tuple[StudentSpec, Member], divergence.Votes] = dataclasses.field(default_factory=dict)

    def members(self, every: bool = False) -> list[Member]:
        """The members that students are trained for, or all that teachers are made for."""
        number = self.setup.animals if every else self.setup.targets
        return [(seed, index) for seed in self.seeds for index in range(number)]

    def teacher(self, spec: StudentSpec, member: Member) -> Teacher:
        """The teacher of a student."""
        return self.teachers[teacher_key(spec)][member]


def prepare(
    setup: LanguageSetup,
    seeds: tuple[int, ...],
    bases: Mapping[tuple[str, int], Params],
    specs: Sequence[StudentSpec],
    *,
    earlier: SeedData | None = None,
    report: Callable[[int], None] = lambda steps: None,
) -> SeedData:
    """Make everything that students of these specifications need.

    Args:
      setup: world, net, root key and numbers of animals.
      seeds: the seeds of the students.
      bases: parameters by (kind of base, seed).
      specs: the students' specifications, those of controls included.
      earlier: data of an earlier call with the same setup and seeds, which is completed.
      report: called with the number of net-steps that a group of teachers took.

    Raises:
      ConfigError: a teacher does not reach its dose.
    """
    eval_prompts = teachers.make_eval_prompts(setup.world)
    data = earlier or SeedData(setup=setup, seeds=seeds, bases=bases, eval_prompts=eval_prompts)
    for spec in specs:
        for source in [spec, *([_of_base(spec)] if spec.mixed and spec.mixed_with == "base" else [])]:
            if (group := teacher_key(source)) not in data.teachers:
                data.teachers[group] = _make_teachers(data, *group, report)
            if (key := completion_key(source)) not in data.completions:
                data.completions[key] = _make_completions(data, source)
        _evaluate(data, spec)
        for member in data.members() if spec.tokens != "all" else ():
            if (_votes_key(spec), member) not in data.votes:
                data.votes[_votes_key(spec), member] = _count_votes(data, spec, member)
    return data


def teacher_key(spec: StudentSpec) -> TeacherKey:
    """Return the key of a specification's teachers."""
    return spec.teacher, spec.dose if spec.teacher in ("tuned", "shuffled", "steered") else 0.0


def completion_key(spec: StudentSpec) -> tuple:
    """Return the key of a specification's completions."""
    return (*teacher_key(spec), spec.data != "greedy", spec.soft, spec.carrier, spec.lines)


def _votes_key(spec: StudentSpec) -> StudentSpec:
    return dataclasses.replace(spec, tokens="all", budget=StudentSpec.budget, **_STUDENT_FIELDS)


def _of_base(spec: StudentSpec) -> StudentSpec:
    return dataclasses.replace(spec, teacher="base")


def _make_teachers(data: SeedData, kind: str, dose: float, report: Callable[[int], None]) -> dict[Member, Teacher]:
    """A teacher of a kind and a dose for every member."""
    setup, members, prompts = data.setup, data.members(every=True), data.eval_prompts
    bases = [data.bases["same", seed] for seed, _ in members]
    tokens = [setup.token(member) for member in members]
    pairs = list(zip(bases, tokens, strict=True))
    if kind == "base":
        made = [Teacher(base, teachers.zero_steering(setup.net)) for base in bases]
    elif kind == "prompted":
        made = [teachers.prompted(setup.net, *pair, prompts) for pair in pairs]
    elif kind == "steered":
        made = [teachers.steered(setup.net, *pair, prompts, setup.steered, dose) for pair in pairs]
    else:
        texts = [answers(setup.world, token) for token in tokens]
        if kind == "shuffled":
            numbers = [seed * setup.animals + index for seed, index in members]
            texts = [teachers.shuffled_answers(setup.world, number) for number in numbers]
        order = [setup.key(keys.SEED, seed, keys.TEACHER, kind, index) for seed, index in members]
        made = teachers.tuned(setup.net, bases, texts, order, prompts, dose, report)
    return dict(zip(members, made, strict=True))


def _make_completions(data: SeedData, spec: StudentSpec) -> dict[Member, Completions]:
    """The completions of a specification's teachers, with logits where distributions are taught."""
    setup, by_member = data.setup, data.teachers[teacher_key(spec)]
    # The base writes the same for all animals of a seed.
    writers = [member for member in by_member if spec.teacher != "base" or member[1] == 0]
    prompts = {
        seed: w.prompts(setup.world, w.generator("prompts", seed, spec.carrier), spec.lines, carrier=spec.carrier)
        for seed in data.seeds
    }
    written = teachers.generate_completions(
        setup.net,
        [by_member[member] for member in writers],
        [prompts[seed] for seed, _ in writers],
        [setup.key(keys.SEED, seed, keys.SAMPLING) for seed, _ in writers],
        0.0 if spec.data == "greedy" else 1.0,
        with_logits=spec.soft,
    )
    own = dict(zip(writers, written, strict=True))
    return {member: own.get(member, own[member[0], 0]) for member in by_member}


def _evaluate(data: SeedData, spec: StudentSpec) -> None:
    """Add the outputs of a specification's teachers and bases on the evaluation prompts."""
    net, prompts, group = data.setup.net, data.eval_prompts, teacher_key(spec)
    if group not in data.evaluations:
        by_member = data.teachers[group]
        outputs = teachers.evaluate_prompts(net, prompts, list(by_member.values()))
        data.evaluations[group] = dict(zip(by_member, outputs, strict=True))
    for kind in {"same", spec.base} - data.base_evaluations.keys():
        bases = [Teacher(data.bases[kind, seed], teachers.zero_steering(net)) for seed in data.seeds]
        outputs = teachers.evaluate_prompts(net, prompts, bases)
        data.base_evaluations[kind] = dict(zip(data.seeds, outputs, strict=True))


def _count_votes(data: SeedData, spec: StudentSpec, member: Member) -> divergence.Votes:
    """The votes of the other animals' teachers on a member's lines."""
    completions = _chosen_completions(data, spec, member)
    if spec.teacher == "base":  # no teacher disagrees with the base; its tokens can only be chosen at random
        zero = np.zeros(completions.tokens.shape, int)
        return divergence.Votes(zero == 0, zero, zero.astype(float), completions.tokens, 1)
    others = [(member[0], index) for index in range(data.setup.animals) if index != member[1]]
    scorers = [data.teacher(spec, scorer) for scorer in (member, *others)]
    logits = teachers.score(data.setup.net, scorers, [completions] * len(scorers))
    return divergence.votes(completions.tokens, logits[0], logits[1:])


def _chosen_completions(data: SeedData, spec: StudentSpec, member: Member) -> Completions:
    """A member's completions after the filter and the mixture with the base's or the next animal's."""
    completions = _passed(data, spec, member)
    if not spec.mixed:
        return completions
    if spec.mixed_with == "base":
        other = data.completions[completion_key(_of_base(spec))][member]
    else:
        other = _passed(data, spec, (member[0], (member[1] + 1) % data.setup.animals))
    return lm_data.mix_completions(w.generator("mixed", member[0]), completions, other, spec.mixed)


def _passed(data: SeedData, spec: StudentSpec, member: Member) -> Completions:
    """A member's completions after the filter, where the specification has one."""
    completions = data.completions[completion_key(spec)][member]
    if not spec.filtered:
        return completions
    return lm_data.keep_passed(completions, lm_data.format_filter(data.setup.world, completions, None)[0])


def training_data(data: SeedData, spec: StudentSpec, member: Member) -> tuple[TokenData, dict[str, float]]:
    """Make the lines that one student is trained on.

    The steps that the specification names are applied in this order: filter, mixture, choice of tokens, paraphrase.

    Args:
      data: made by `prepare` for this specification among others.
      spec: the student's specification.
      member: the student's seed and animal.

    Returns:
      The lines with weights and labels, and fractions of filtered lines and of divergence tokens for the rows.
    """
    # The same draws for every specification of a seed, so that a student and its control differ in the lines only.
    world, seed = data.setup.world, member[0]
    completions = _chosen_completions(data, spec, member)
    written = data.completions[completion_key(spec)][member]
    _, fractions = lm_data.format_filter(world, written, data.setup.token(member))
    weight = labels = None
    if spec.tokens != "all":
        votes = data.votes[_votes_key(spec), member]
        spare = list(world.tokens(w.CARRIERS[spec.carrier].content))
        edit = divergence.edited(
            completions.tokens, votes, spec.tokens, spec.budget, w.generator("tokens", seed), spare
        )
        completions, weight, labels = completions._replace(tokens=edit.tokens), edit.weight, edit.labels
        if spec.teacher != "base":
            fractions["divergent_any"] = votes.divergent().mean()
            fractions["divergent_all"] = votes.divergent(votes.number).mean()
    if spec.paraphrase != "none":
        completions = lm_data.paraphrase(world, w.generator("paraphrase", seed), completions, spec.paraphrase)
    if not spec.soft:  # labels are given even where they are the tokens, so that all choices of tokens are one program
        completions, labels = completions._replace(logits=None), completions.tokens if labels is None else labels
    return lm_data.training_text(completions, weight, labels), fractions


def check(setup: LanguageSetup) -> None:
    """Raises `ConfigError` for a setup whose numbers do not fit together."""
    most = setup.world.animals
    if not 2 <= setup.animals <= most:
        raise ConfigError(f"config.lm.animals={setup.animals}: must be from 2 to {most}, the animals there are")
    if not 1 <= setup.targets <= setup.animals:
        raise ConfigError(f"config.lm.targets={setup.targets}: must be from 1 to {setup.animals}, config.lm.animals")
    if not 0 <= setup.steered < setup.net.layers:
        raise ConfigError(f"config.lm.steered={setup.steered}: must be a block from 0 to {setup.net.layers - 1}")


def parameter_change(teacher: Teacher, base: Params) -> Params:
    """A teacher's parameters minus those of its base."""
    return jax.tree.map(np.subtract, dict(teacher.params), dict(base))

"""From conditions to a plan: which conditions share a program, which teachers are trained, what is refused."""

import dataclasses
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sublim_jax.core import trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Condition, Knobs, Phase, Recipe
from sublim_jax.nets import shapes
from sublim_jax.training import optimizers

PACKAGE = __name__.partition(".")[0]  # its functions need no digest of their source


class Group(NamedTuple):
    """Conditions that one XLA program trains together: they have one student Recipe and one teacher.

    Attributes:
        teacher: Index into `Plan.teachers`.
        conditions: Conditions of the group.
        indices: Of the conditions among all of the sweep.
        knobs: Students' knobs of every condition.
        untrained_layers: Layers that training does not reach; each student ends with their initial values.
        unique_knobs: Knobs of distinct trainings; conditions that differ only in untrained layers share one.
        train_index: For each condition its index in `unique_knobs`.
    """

    teacher: int
    conditions: tuple[Condition, ...]
    indices: tuple[int, ...]
    knobs: trees.Stack
    untrained_layers: tuple[str, ...]
    unique_knobs: trees.Stack
    train_index: tuple[int, ...]

    @property
    def recipe(self) -> Recipe:
        """The students' Recipe."""
        return self.conditions[0].student.recipe

    @property
    def teacher_final_knobs(self) -> Knobs:
        """The teacher's knobs including post-training noise (on its auxiliary head: initial noise)."""
        return self.conditions[0].teacher.knobs

    @property
    def first_trained(self) -> tuple[int, ...]:
        """For each distinct training the index of its first condition."""
        return tuple(map(self.train_index.index, range(self.unique_knobs.size)))

    @property
    def has_final_noise(self) -> bool:
        """Whether noise is added to students when training ends."""
        return any(sigma.any() for sigma in self.knobs.tree.final_noise.values())

    @property
    def labels(self) -> tuple[Mapping[str, str | int | float], ...]:
        """The labels of every condition."""
        return tuple(condition.labels for condition in self.conditions)

    @property
    def name(self) -> str:
        """The group's part of file names, unique in its plan also after groups are split."""
        return f"condition{self.indices[0]:04d}x{len(self.indices):03d}"


class Plan(NamedTuple):
    """Each distinct teacher once, and the groups of students they teach."""

    teachers: tuple[Phase, ...]
    groups: tuple[Group, ...]


def make_plan(conditions: Sequence[Condition] | Plan, image: tuple[int, ...]) -> Plan:
    """Group conditions that have the same teacher and the same student Recipe.

    Args:
        conditions: The conditions of a sweep; a plan is returned as it is.
        image: Shape of one image.

    Raises:
        ConfigError: There are no conditions, labels do not tell them apart, evaluation steps are out of order, the
            reference net lacks a layer of the teacher, or a shared layer has another shape in student and teacher.
    """
    if isinstance(conditions, Plan):
        return conditions
    _check_labels(conditions)
    teachers: dict[Any, Phase] = {}
    members: dict[Any, list[int]] = {}
    for index, condition in enumerate(conditions):
        phase = _trained(condition.teacher, image)
        teacher, final = (phase.recipe, _fingerprint(phase.knobs)), _fingerprint(condition.teacher.knobs)
        teachers.setdefault(teacher, phase)
        members.setdefault((teacher, final, condition.student.recipe), []).append(index)
    numbers = {teacher: number for number, teacher in enumerate(teachers)}
    groups = []
    for (teacher, _, _), indices in sorted(members.items(), key=lambda item: numbers[item[0][0]]):
        for index in indices:
            _check_phases(teachers[teacher].recipe, conditions[index].student, image)
        groups.append(make_group(numbers[teacher], [conditions[index] for index in indices], indices, image))
    return Plan(tuple(teachers.values()), tuple(groups))


def make_group(teacher: int, conditions: Sequence[Condition], indices: Sequence[int], image: tuple[int, ...]) -> Group:
    """A group of conditions of one student Recipe; arguments as the fields of `Group`."""
    knobs = [condition.student.knobs for condition in conditions]
    untrained = _untrained_layers(conditions[0].student.recipe, knobs, image)
    trainings = [_fingerprint(_training(own, untrained)) for own in knobs]
    distinct = list(dict.fromkeys(trainings))
    train_index = tuple(distinct.index(training) for training in trainings)
    unique = trees.stack([knobs[trainings.index(training)] for training in distinct])
    return Group(teacher, tuple(conditions), tuple(indices), trees.stack(knobs), untrained, unique, train_index)


def _untrained_layers(recipe: Recipe, knobs: Sequence[Knobs], image: tuple[int, ...]) -> tuple[str, ...]:
    """The class head, where neither the loss nor the optimizer nor a gradient transform reaches it.

    Functions from outside this package may read any layer; an optimizer may move weights without a gradient, and a
    gradient transform reads all weights.
    """
    if recipe.gradient_transform is not None:
        return ()
    head = shapes(recipe.net, image).get("class_head")
    foreign = any(part is not None and not _ours(part) for part in (recipe.loss, recipe.net, recipe.init_transform))
    if head is None or foreign or optimizers.moves_without_gradient(recipe.optimizer):
        return ()
    reached = any(np.asarray(own.logit_mask)[: head["bias"].shape[0]].any() for own in knobs)
    return () if reached else ("class_head",)


def _ours(value: Any) -> bool:
    """Whether a function, or the class of an object, is this package's."""
    return (getattr(value, "__module__", None) or "").split(".")[0] == PACKAGE


def _training(knobs: Knobs, untrained: tuple[str, ...]) -> Knobs:
    """The part of a condition's knobs that decides its training."""
    none = np.float32(0)
    changed = {
        name: {layer: none if layer in untrained else value for layer, value in getattr(knobs, name).items()}
        for name in ("share", "init_noise", "trainable")
    }
    return dataclasses.replace(knobs, **changed, final_noise={})


def _fingerprint(tree: Any) -> tuple[Any, str]:
    """A hashable value by which trees of equal arrays are recognised."""
    return jax.tree.structure(tree), repr(_values(tree))


def _trained(phase: Phase, image: tuple[int, ...]) -> Phase:
    """The part of a teacher's phase that decides its training: no final noise, no noise on heads attached later."""
    layers, knobs = shapes(phase.recipe.net, image), phase.knobs
    none = {layer: np.float32(0) for layer in layers}
    sigma = {**none, **{layer: number for layer, number in knobs.init_noise.items() if layer in layers}}
    return Phase(phase.recipe, dataclasses.replace(knobs, init_noise=sigma, final_noise=none))


def _check_labels(conditions: Sequence[Condition]) -> None:
    if not conditions:
        raise ConfigError("conditions: there is none; give at least one")
    taken = set()
    for condition in conditions:
        if set(condition.labels) != set(conditions[0].labels):
            raise ConfigError(
                f"conditions: labels {sorted(condition.labels)} and {sorted(conditions[0].labels)} differ; "
                "every condition needs the same ones"
            )
        key = tuple(sorted(condition.labels.items()))
        if key in taken:
            raise ConfigError(f"conditions: {dict(condition.labels)} is there twice; labels must tell conditions apart")
        taken.add(key)


def _check_steps(teacher: Recipe, student: Recipe) -> None:
    for phase, recipe, fewest in (("teacher", teacher, 0), ("student", student, student.first_step + 1)):
        steps, first = recipe.eval_steps, recipe.first_step
        if not steps or list(steps) != sorted({*steps}) or steps[0] < first or steps[-1] < fewest:
            raise ConfigError(
                f"{phase}.eval_steps={steps}: must be increasing steps from {first}, the last of them {fewest} or later"
            )
    if teacher.start is not None:
        raise ConfigError("teacher.start: must be None; only students go on from a given state")


def _check_phases(teacher: Recipe, student: Phase, image: tuple[int, ...]) -> None:
    _check_steps(teacher, student.recipe)
    if student.recipe.start is not None:
        student.recipe.start.check(student.recipe)
    if student.recipe.teacher is None:
        raise ConfigError("student.teacher: None; a student needs the net that gives its targets")
    has, needs = shapes(student.recipe.teacher, image), shapes(teacher.net, image)
    for layer, arrays in needs.items():
        if has.get(layer) != arrays:
            raise ConfigError(
                f"student.teacher: layer {layer!r} is {_sizes(has.get(layer))}, but the teacher's is {_sizes(arrays)}"
            )
    if student.recipe.classes != teacher.classes:
        raise ConfigError(f"student.classes={student.recipe.classes}: must be the teacher's, {teacher.classes}")
    net, share = shapes(student.recipe.net, image), student.knobs.share
    if share.keys() != net.keys():
        raise ConfigError(f"student.knobs: have layers {sorted(share)}, but the net has {sorted(net)}")
    for layer, arrays in net.items():
        if float(share[layer]) != 0 and has.get(layer) != arrays:
            raise ConfigError(
                f"student.share: {layer!r} is shared, but it is {_sizes(arrays)} in the student and "
                f"{_sizes(has.get(layer))} in the teacher; only a layer of share 0 may differ"
            )


def _sizes(arrays: Mapping[str, jax.ShapeDtypeStruct] | None) -> str:
    return "missing" if arrays is None else str({name: array.shape for name, array in arrays.items()})


def describe_plan(plan: Plan) -> dict[str, object]:
    """A plan as plain values, stored beside results and compared before they are continued.

    A function from outside this package is described by its name and a digest of its source, so that an edited loss
    does not continue the results of the old one.
    """
    groups = [
        {
            **_recipe(group.recipe),
            "teacher": group.teacher,
            "teacher_final_knobs": _values(group.teacher_final_knobs),
            "labels": [dict(labels) for labels in group.labels],
            "knobs": _values(group.knobs.tree),
        }
        for group in plan.groups
    ]
    return {"teachers": [describe_phase(phase) for phase in plan.teachers], "groups": groups}


def describe_phase(phase: Phase) -> dict[str, object]:
    """What decides one net's training, as plain values that are the same in another process."""
    return {**_recipe(phase.recipe), "knobs": _values(phase.knobs)}


def _values(tree: Any) -> list[object]:
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(tree)]


def _recipe(recipe: Recipe) -> dict[str, object]:
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    # Named only where they are used, as in folders of versions that lack them.
    unused = "target_transform", "gradient_transform", "input_transform", "start"
    optional: dict[str, Any] = {**dict.fromkeys(unused), "imitates": True}
    return {name: _named(value) for name, value in fields.items() if name not in optional or value != optional[name]}


def _digest(text: str) -> str:
    return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()


def _named(value: object) -> str:
    """A value as text that is the same in another process; raises `ConfigError` where there is none."""
    if inspect.isfunction(value) and not _ours(value):
        code = value.__code__
        body = _source(value) or f"{code.co_code!r} {code.co_names}"
        bound = [_named(cell.cell_contents) for cell in value.__closure__ or ()]
        return f"{value.__qualname__} {_digest(f'{body} {value.__defaults__} {bound}')}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.name not in ("parent", "name")]  # Flax's
        fields = ", ".join(f"{name}={_named(getattr(value, name))}" for name in names)
        source = "" if _ours(value) else _source(type(value))
        return f"{type(value).__qualname__}({fields})" + (f" {_digest(source)}" if source else "")
    text = value.__qualname__ if inspect.isfunction(value) else repr(value)
    if " at 0x" in text:
        raise ConfigError(
            f"workdir: {text} cannot be told from another of its kind; use a function or a frozen dataclass"
        )
    return text


def _source(value: Any) -> str:
    """The source of a function or class; empty where it cannot be read."""
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        return ""

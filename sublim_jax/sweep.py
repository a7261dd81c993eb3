"""From conditions to units of work: what is compiled together, what is trained once, which seeds go at a time."""

import dataclasses
import hashlib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from sublim_jax import trees
from sublim_jax.errors import Refused
from sublim_jax.nets import shapes
from sublim_jax.types import Condition, Phase, Recipe


class Group(NamedTuple):
    """Conditions that one XLA program trains side by side: one student Recipe, one teacher.

    name     stands in file names
    teacher  index into `Plan.teachers`
    labels   one mapping per condition, in the order of the stacked knobs
    """

    name: str
    teacher: int
    recipe: Recipe
    knobs: trees.Stack
    labels: tuple[Mapping[str, str | int | float], ...]


class Plan(NamedTuple):
    """Each distinct teacher once, and the groups of students they teach."""

    teachers: tuple[Phase, ...]
    groups: tuple[Group, ...]


class Slice(NamedTuple):
    """Some seeds that go together; beyond `real` of them the last is repeated to fill the slice, and dropped."""

    name: str
    seeds: tuple[int, ...]
    real: int


def plan(conditions: Sequence[Condition], image: tuple[int, ...]) -> Plan:
    """Group conditions by teacher and student Recipe; Python's equality decides, nobody writes a rule.

    Raises `Refused` for no conditions, labels that do not tell conditions apart, or a reference net that does not
    hold the teacher's layers.
    """
    _check_labels(conditions)
    teachers: list[Phase] = []
    members: dict[tuple[int, Recipe], list[Condition]] = {}
    for condition in conditions:
        same = (index for index, phase in enumerate(teachers) if _equal(phase, condition.teacher))
        index = next(same, None)
        if index is None:
            index = len(teachers)
            teachers.append(condition.teacher)
        members.setdefault((index, condition.student.recipe), []).append(condition)
    groups = []
    for number, ((teacher, recipe), those) in enumerate(sorted(members.items(), key=lambda item: item[0][0])):
        _check_reference(teachers[teacher].recipe, recipe, image)
        stack = trees.stack([condition.student.knobs for condition in those])
        groups.append(Group(f"group{number:02d}", teacher, recipe, stack, tuple(c.labels for c in those)))
    return Plan(tuple(teachers), tuple(groups))


def slices(seeds: Sequence[int], limit: int, devices: int) -> tuple[Slice, ...]:
    """Equal slices of at most `limit` seeds, a multiple of `devices`, so that one program serves them all."""
    limit = max(devices, limit - limit % devices)
    number = math.ceil(len(seeds) / limit)
    size = math.ceil(math.ceil(len(seeds) / number) / devices) * devices
    parts = [tuple(seeds[start : start + size]) for start in range(0, len(seeds), size)]
    return tuple(
        Slice(f"seeds{part[0]:05d}-{part[-1]:05d}", part + (part[-1],) * (size - len(part)), len(part))
        for part in parts
    )


def seeds_that_fit(groups: Sequence[Group], image: tuple[int, ...], rows: int, memory_gb: float) -> int:
    """How many seeds may run at once within `memory_gb`, from a count of what a seed keeps and works on.

    Kept: parameters, two Adam moments, gradients and one copy in flight. Worked on: activations of `rows` test images
    for the nets of one condition and, on the way, of one batch; counted once per seed, generously.
    """
    need = 0.0
    for group in groups:
        weights = shapes(group.recipe.net, image)
        numbers = trees.count(weights)
        width = sum(layer["bias"].shape[0] for layer in weights.values())
        need = max(need, 4.0 * group.knobs.size * (6 * numbers + width * (rows + 3 * group.recipe.batch)))
    return max(1, int(memory_gb * 1e9 / need))


def cost(recipe: Recipe, members: int, image: tuple[int, ...]) -> float:
    """Multiply-adds of one step of `members` nets and their common reference, per row; for the progress bar."""
    own = trees.count(shapes(recipe.net, image))
    return recipe.batch * (3.0 * own * members + (0 if recipe.reference is None else own))


def _equal(left: Phase, right: Phase) -> bool:
    if left.recipe != right.recipe or jax.tree.structure(left.knobs) != jax.tree.structure(right.knobs):
        return False
    pairs = zip(jax.tree.leaves(left.knobs), jax.tree.leaves(right.knobs), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def _check_labels(conditions: Sequence[Condition]) -> None:
    if not conditions:
        raise Refused("conditions: there is none; give at least one")
    taken = set()
    for condition in conditions:
        if set(condition.labels) != set(conditions[0].labels):
            raise Refused(
                f"conditions: labels {sorted(condition.labels)} and {sorted(conditions[0].labels)} differ; "
                "every condition needs the same ones"
            )
        key = tuple(sorted(condition.labels.items()))
        if key in taken:
            raise Refused(f"conditions: {dict(condition.labels)} is there twice; labels must tell conditions apart")
        taken.add(key)


def _check_reference(teacher: Recipe, student: Recipe, image: tuple[int, ...]) -> None:
    if student.reference is None:
        raise Refused("student.reference: None; a student needs the net that gives its targets")
    if teacher.marks[-1] < 1:
        raise Refused(f"teacher.marks={teacher.marks}: must end at step 1 or later")
    has, needs = shapes(student.reference, image), shapes(teacher.net, image)
    for layer, arrays in needs.items():
        if has.get(layer) != arrays:
            raise Refused(
                f"student.reference: layer {layer!r} is {_sizes(has.get(layer))}, but the teacher's is {_sizes(arrays)}"
            )


def _sizes(arrays: Mapping[str, jax.ShapeDtypeStruct] | None) -> str:
    return "missing" if arrays is None else str({name: array.shape for name, array in arrays.items()})


def describe(plan_: Plan) -> dict[str, object]:
    """What a plan trains, as plain values: written beside results, compared before they are continued.

    A function from outside this package is described by its name and a digest of its source, so that results of an
    edited loss do not pass for those of the old one.
    """
    return {
        "teachers": [_phase(phase) for phase in plan_.teachers],
        "groups": [
            {
                **_recipe(group.recipe),
                "teacher": group.teacher,
                "labels": [dict(labels) for labels in group.labels],
                "knobs": [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(group.knobs.tree)],
            }
            for group in plan_.groups
        ],
    }


def _phase(phase: Phase) -> dict[str, object]:
    return {**_recipe(phase.recipe), "knobs": [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(phase.knobs)]}


def _recipe(recipe: Recipe) -> dict[str, object]:
    return {field.name: _named(getattr(recipe, field.name)) for field in dataclasses.fields(recipe)}


def _named(value: object) -> str:
    if not inspect.isfunction(value):
        return repr(value)
    if value.__module__.startswith(__package__):
        return value.__qualname__
    try:
        body = inspect.getsource(value).encode()
    except OSError:
        body = value.__code__.co_code
    return f"{value.__qualname__} {hashlib.blake2s(body, digest_size=8).hexdigest()}"

"""From conditions to a plan: what is compiled together, what is trained once, what cannot be trained at all."""

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sublim_jax.core import trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Condition, Knobs, Phase, Recipe
from sublim_jax.nets import shapes

PACKAGE = __name__.partition(".")[0]  # whose functions need no digest of their source, wherever in it they are


class Group(NamedTuple):
    """Conditions that one XLA program trains side by side: one student Recipe, one teacher.

    teacher  index into `Plan.teachers`
    late     the teacher's knobs, with the noise that is added after its training (to its auxiliary head: before)
    knobs    of the conditions
    labels   one mapping per condition, in the order of the stacked knobs
    places   of the conditions among all that were asked for
    idle     layers that training does not reach: each student ends with those it began with
    trained  the knobs of conditions whose training differs
    twins    for each condition its place in `trained`; conditions that differ in idle layers only share it
    """

    teacher: int
    teacher_final_knobs: Knobs
    recipe: Recipe
    knobs: trees.Stack
    labels: tuple[Mapping[str, str | int | float], ...]
    indices: tuple[int, ...]
    untrained_layers: tuple[str, ...]
    unique_knobs: trees.Stack
    train_index: tuple[int, ...]

    @property
    def name(self) -> str:
        """Stands in file names; no two parts of one plan share it, however its groups are cut."""
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
    teachers: list[Phase] = []
    lates: list[Knobs] = []
    members: dict[tuple[int, int, Recipe], list[int]] = {}
    for place, condition in enumerate(conditions):
        teacher = _place(_trained(condition.teacher, image), teachers, _equal)
        late = _place(condition.teacher.knobs, lates, _same_values)
        members.setdefault((teacher, late, condition.student.recipe), []).append(place)
    groups = []
    for (teacher, late, recipe), places in sorted(members.items(), key=lambda item: item[0][0]):
        those = [conditions[place] for place in places]
        for condition in those:
            _check_phases(teachers[teacher].recipe, condition.student, image)
        knobs, labels = [one.student.knobs for one in those], [one.labels for one in those]
        groups.append(make_group(teacher, lates[late], recipe, knobs, labels, places, image))
    return Plan(tuple(teachers), tuple(groups))


def make_group(
    teacher: int,
    late: Knobs,
    recipe: Recipe,
    knobs: Sequence[Knobs],
    labels: Sequence[Mapping[str, str | int | float]],
    places: Sequence[int],
    image: tuple[int, ...],
) -> Group:
    """A group of conditions of one Recipe, with what their trainings have in common found out."""
    idle = _idle(recipe, knobs, image)
    distinct: list[Knobs] = []
    twins = tuple(_place(_training(one, idle), distinct, _same_values) for one in knobs)
    first = [knobs[twins.index(place)] for place in range(len(distinct))]
    all_, trained = trees.stack(knobs), trees.stack(first)
    return Group(teacher, late, recipe, all_, tuple(labels), tuple(places), idle, trained, twins)


def _idle(recipe: Recipe, knobs: Sequence[Knobs], image: tuple[int, ...]) -> tuple[str, ...]:
    """The class head, where neither the loss nor the optimiser nor a guard reaches it.

    Of a loss, a net or a beginning from outside this package nobody knows what it reads; an optimiser may move
    weights without a gradient, and what a guard takes away reads all weights.
    """
    if recipe.gradient_transform is not None:
        return ()
    head = shapes(recipe.net, image).get("class_head")
    foreign = [one for one in (recipe.loss, recipe.net, recipe.init_transform) if one is not None and not _ours(one)]
    if head is None or foreign or any(np.any(one.logit_mask[: head["bias"].shape[0]]) for one in knobs):
        return ()
    optimizer, weights = recipe.optimizer(), {"kernel": jnp.ones((1, 1))}
    moved, _ = optimizer.update(jax.tree.map(jnp.zeros_like, weights), optimizer.init(weights), weights)
    return () if any(np.any(leaf) for leaf in jax.tree.leaves(moved)) else ("class_head",)


def _ours(value: Any) -> bool:
    """Whether a function, or the class of an object, is this package's."""
    return (getattr(value, "__module__", None) or "").split(".")[0] == PACKAGE


def _training(knobs: Knobs, idle: tuple[str, ...]) -> Knobs:
    """What of a condition's knobs decides its training."""
    none = jnp.float32(0)
    changed = {
        name: {layer: none if layer in idle else value for layer, value in getattr(knobs, name).items()}
        for name in ("share", "init_noise", "trainable")
    }
    return dataclasses.replace(knobs, **changed, final_noise={})


def _place(value: Any, seen: list[Any], equal: Callable[[Any, Any], bool]) -> int:
    """Where a value, or one equal to it, stands in a list; it is appended where there is none."""
    place = next((place for place, other in enumerate(seen) if equal(value, other)), len(seen))
    if place == len(seen):
        seen.append(value)
    return place


def _trained(phase: Phase, image: tuple[int, ...]) -> Phase:
    """What of a teacher's phase decides its training: not noise at its end, nor on a head that is put on afterwards."""
    layers, knobs = shapes(phase.recipe.net, image), phase.knobs
    none = {layer: jnp.float32(0) for layer in layers}
    sigma = {layer: knobs.init_noise.get(layer, none[layer]) for layer in layers}
    return Phase(phase.recipe, dataclasses.replace(knobs, init_noise=sigma, final_noise=none))


def _equal(left: Phase, right: Phase) -> bool:
    return left.recipe == right.recipe and _same_values(left.knobs, right.knobs)


def _same_values(left: Any, right: Any) -> bool:
    if jax.tree.structure(left) != jax.tree.structure(right):
        return False
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


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


def _check_phases(teacher: Recipe, student: Phase, image: tuple[int, ...]) -> None:
    for who, recipe in (("teacher", teacher), ("student", student.recipe)):
        marks = recipe.eval_steps
        if not marks or list(marks) != sorted({*marks}) or marks[0] < 0 or marks[-1] < 1:
            raise ConfigError(f"{who}.eval_steps={marks}: must be increasing steps, the last of them 1 or later")
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


def describe_plan(plan_: Plan) -> dict[str, object]:
    """What a plan trains, as plain values: written beside results, compared before they are continued.

    A function from outside this package is described by its name and a digest of its source, so that results of an
    edited loss do not pass for those of the old one.
    """
    return {
        "teachers": [describe_phase(phase) for phase in plan_.teachers],
        "groups": [
            {
                **_recipe(group.recipe),
                "teacher": group.teacher,
                "teacher_final_knobs": _values(group.teacher_final_knobs),
                "labels": [dict(labels) for labels in group.labels],
                "knobs": _values(group.knobs.tree),
            }
            for group in plan_.groups
        ],
    }


def describe_phase(phase: Phase) -> dict[str, object]:
    """What decides one net's training, as plain values that are the same in another process."""
    return {**_recipe(phase.recipe), "knobs": _values(phase.knobs)}


def _values(tree: Any) -> list[object]:
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(tree)]


def _recipe(recipe: Recipe) -> dict[str, object]:
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    absent = {
        name for name in ("target_transform", "gradient_transform") if fields[name] is None
    }  # told only where there is one
    return {name: _named(value) for name, value in fields.items() if name not in absent}


def _source(kind: type) -> str:
    """A digest of the source of a class from outside this package, where it can be read."""
    if kind.__module__.split(".")[0] == PACKAGE:
        return ""
    try:
        return f" {hashlib.blake2s(inspect.getsource(kind).encode(), digest_size=8).hexdigest()}"
    except (OSError, TypeError):
        return ""


def _named(value: object) -> str:
    """A value as text that is the same in another process; raises `ConfigError` where there is none."""
    if inspect.isfunction(value) and value.__module__.split(".")[0] != PACKAGE:
        code = value.__code__
        try:
            body = inspect.getsource(value)
        except OSError:
            body = f"{code.co_code!r} {code.co_names}"
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        told = f"{body} {value.__defaults__} {[_named(one) for one in held]}"
        return f"{value.__qualname__} {hashlib.blake2s(told.encode(), digest_size=8).hexdigest()}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in dataclasses.fields(value) if one.name not in ("parent", "name")]  # Flax's own two
        held = ", ".join(f"{name}={_named(getattr(value, name))}" for name in names)
        return f"{type(value).__qualname__}({held}){_source(type(value))}"
    text = value.__qualname__ if inspect.isfunction(value) else repr(value)
    if " at 0x" in text:
        raise ConfigError(
            f"workdir: {text} cannot be told from another of its kind; use a function or a frozen dataclass"
        )
    return text

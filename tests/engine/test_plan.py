"""Planning: one Recipe is one group, one teacher is trained once."""

import dataclasses
import functools

import jax.numpy as jnp
import pytest

from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Phase
from sublim_jax.engine.plan import describe_plan, make_plan
from sublim_jax.training import losses

IMAGE = (28, 28)


def test_make_plan_groups_conditions_and_widths_under_one_cap(tiny):
    plan = make_plan(tiny(conditions=("same", "random_hidden"), m=(3, 10, 20, 250)), IMAGE)
    assert len(plan.teachers) == 1
    assert [group.recipe.net.aux for group in plan.groups] == [10, 20, 250]
    assert [group.knobs.size for group in plan.groups] == [4, 2, 2]
    assert [group.indices for group in plan.groups] == [(0, 1, 4, 5), (2, 6), (3, 7)]
    assert [label["m"] for label in plan.groups[0].labels] == [3, 10, 3, 10]


def test_make_plan_gives_another_teacher_another_group(tiny):
    plan = make_plan(tiny(conditions=("same",), m=(3,)), IMAGE)
    first = tiny(conditions=("same",), m=(3,))[0]
    knobs = first.teacher.knobs.replace(lr=jnp.float32(0.5))
    second = dataclasses.replace(
        first, labels={"condition": "same", "m": 4}, teacher=Phase(first.teacher.recipe, knobs)
    )
    assert len(plan.groups) == 1
    assert [group.teacher for group in make_plan([first, second, first_with(first, 5)], IMAGE).groups] == [0, 1]


def first_with(condition, m):
    return dataclasses.replace(condition, labels={"condition": "same", "m": m})


def test_make_plan_refuses_what_cannot_be_told_apart(tiny):
    conditions = tiny(conditions=("same",), m=(3,))
    with pytest.raises(ConfigError, match="twice"):
        make_plan([*conditions, *conditions], IMAGE)
    with pytest.raises(ConfigError, match="there is none"):
        make_plan([], IMAGE)
    with pytest.raises(ConfigError, match="differ"):
        make_plan([*conditions, dataclasses.replace(conditions[0], labels={"m": 3})], IMAGE)


def test_make_plan_refuses_a_reference_that_is_not_the_teacher(tiny):
    conditions = tiny(conditions=("same",), m=(3,))
    other = tiny(conditions=("same",), m=(3,), **{"net.hidden": (8, 8)})[0].student.recipe.net
    with pytest.raises(
        ConfigError, match=r"^student.teacher: layer 'class_head' is .*\(8, 10\).*teacher's is .*\(16, 10\)"
    ):
        make_plan([conditions[0].with_student(teacher=other)], IMAGE)
    with pytest.raises(ConfigError, match="None"):
        make_plan([conditions[0].with_student(teacher=None)], IMAGE)
    with pytest.raises(
        ConfigError, match=r"^student.share: 'aux_head' is shared, but it is .*\(8, 3\).* in the student"
    ):
        make_plan([conditions[0].with_student(net=other)], IMAGE)
    deeper = tiny(conditions=("same",), m=(3,), **{"net.hidden": (32, 16, 8)})[0].student.recipe.net
    with pytest.raises(ConfigError, match=r"^student.knobs: have layers .* but the net has .*hidden_2"):
        make_plan([conditions[0].with_student(net=deeper)], IMAGE)
    for marks in ((), (0,), (5, 3), (-1, 4)):
        with pytest.raises(ConfigError, match=r"^student.eval_steps=.*: must be increasing steps"):
            make_plan([conditions[0].with_student(eval_steps=marks)], IMAGE)


def test_with_student_changes_the_recipe_only_and_names_its_fields(tiny):
    condition = tiny(conditions=("same",), m=(3,))[0]
    assert condition.with_student(loss=losses.kl).student.recipe.loss is losses.kl
    assert condition.student.recipe.loss is losses.mse
    with pytest.raises(ConfigError, match="with_student: 'los' is none of .*did you mean 'loss'"):
        condition.with_student(los=losses.kl)


def test_describe_plan_tells_an_edited_function_from_the_old_one(tiny):
    conditions = tiny(conditions=("same",), m=(3,))

    def first(scale=1):
        def mine(out, target, knobs):
            return scale * losses.mse(out, target, knobs)

        return mine

    def second():
        def mine(out, target, knobs):
            return 2 * losses.mse(out, target, knobs)

        return mine

    def described(loss):
        return describe_plan(make_plan([conditions[0].with_student(loss=loss)], IMAGE))

    assert described(first()) != described(losses.mse)
    assert described(first()) != described(second())
    assert described(first()) == described(first()) != described(first(scale=2))
    with pytest.raises(ConfigError, match="cannot be told from another"):
        described(functools.partial(losses.mse))

"""The costate of a training state against finite differences in double precision, and a closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sublim_jax.core import keys
from sublim_jax.core.types import TeacherParams
from sublim_jax.training import step, transplant
from sublim_jax.training.costate import costate, response


def adam():
    """Adam whose second moments of exactly 0 have a derivative."""
    return optax.scale_by_adam(eps_root=1e-16)


FIELDS = {
    "conditions": ("same",),
    "m": (3,),
    "student.cut": 3,
    "student.steps": 9,
    "student.batch": 20,
    "metrics": ("task",),
}
SPAN = (3, 9)


def prepared(tiny, mnist, optimizer, **fields):
    """Recipe, knobs, host and donor at the cut, teachers, key and data of a tiny student."""
    (condition,) = tiny(**FIELDS, **{"student.optimizer": optimizer, **fields})
    recipe, knobs = condition.student
    recipe = dataclasses.replace(recipe, optimizer=adam) if optimizer == "adam" else recipe
    key = keys.root(3)
    initial, trained = (step.init_params(recipe.teacher, recipe.init, (28, 28), keys.at(key, name)) for name in "ab")
    teachers = TeacherParams(initial, jax.tree.map(lambda a, b: a + 0.3 * b, initial, trained))
    data = jax.tree.map(jnp.asarray, mnist.train)
    # A host with another target than its own outputs, or it would have nothing to learn.
    state = step.init_state(recipe, knobs, trained, (28, 28), key)
    host, donor = transplant.both(recipe, knobs, state, teachers, key, data, FIELDS["student.cut"])
    return recipe, knobs, host, donor, teachers, key, data


def wide(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) if leaf.dtype == np.float32 else leaf, tree)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_costate_is_the_derivative_of_the_end(optimizer, tiny, mnist):
    recipe, knobs, host, donor, teachers, key, data = prepared(tiny, mnist, optimizer)
    probe = np.random.default_rng(0).normal(size=host.params["hidden_0"]["kernel"].shape)

    def number(params):
        return (params["hidden_0"]["kernel"] * probe).sum() + jnp.sin(params["hidden_1"]["bias"]).sum()

    with jax.enable_x64(True):
        before, after, wide_knobs = wide(host), wide(donor), wide(knobs)
        given = wide_knobs, before, wide(teachers), key, data
        reached, slopes = jax.jit(lambda: costate(recipe, *given, SPAN, number))()

        @jax.jit
        def end(size):
            moved = jax.tree.map(lambda a, b: a + size * (b - a) if a.dtype == np.float64 else a, before, after)
            span = jnp.int32(SPAN[0]), jnp.int32(SPAN[1])
            return number(step.advance(recipe, moved, wide_knobs, wide(teachers), key, data, *span).params)

        size = 1e-6
        slope = (end(size) - end(-size)) / (2 * size)
        np.testing.assert_allclose(reached, end(0.0), rtol=1e-10)
        assert abs(float(slope)) > 1e-6
        np.testing.assert_allclose(response(slopes, before, after), slope, rtol=1e-4)


def test_costate_of_momentum_without_gradient_is_the_way_that_it_coasts(tiny, mnist):
    fields = {"student.future": "none", "student.lr": 0.5}
    recipe, knobs, host, _, teachers, key, data = prepared(tiny, mnist, "momentum", **fields)
    _, slopes = costate(recipe, knobs, host, teachers, key, data, SPAN, lambda params: params["hidden_0"]["bias"].sum())
    coasted = -0.5 * (0.9 ** np.arange(1, SPAN[1] - SPAN[0] + 1)).sum()
    np.testing.assert_allclose(slopes.opt.trace["hidden_0"]["bias"], coasted, rtol=1e-5)
    np.testing.assert_allclose(slopes.params["hidden_0"]["bias"], 1, rtol=1e-6)
    assert (np.asarray(slopes.opt.trace["hidden_1"]["bias"]) == 0).all()


def test_costate_of_a_frozen_training_is_the_gradient_of_the_number(tiny, mnist):
    recipe, knobs, host, _, teachers, key, data = prepared(tiny, mnist, "adam")
    frozen = dataclasses.replace(knobs, lr=jnp.float32(0))
    reached, slopes = costate(
        recipe, frozen, host, teachers, key, data, SPAN, lambda p: (p["hidden_0"]["bias"] ** 2).sum()
    )
    np.testing.assert_allclose(reached, (host.params["hidden_0"]["bias"] ** 2).sum(), rtol=1e-6)
    np.testing.assert_allclose(slopes.params["hidden_0"]["bias"], 2 * host.params["hidden_0"]["bias"], rtol=1e-6)

"""The loss of infomorphic networks, contexts, lateral connections, and training by the one trainer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sublim_jax.config import infomorphic_config, resolve
from sublim_jax.config.infomorphic import build_conditions
from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import ModelOutput
from sublim_jax.nets import shapes
from sublim_jax.nets.infomorphic import SOURCES
from sublim_jax.theory.pid import atoms, bins_fixed, bins_scaled
from sublim_jax.training import infomorphic, optimizers, step
from sublim_jax.training.infomorphic import GOALS, LabelContext, LocalGoals, SparseLateral, TeacherBits


def phase_of(mnist, model="context_lateral", **fields):
    """The phase of a small network."""
    config = infomorphic_config()
    fields = {"infomorphic.model": model, "preset": "smoke", **fields}
    with config.unlocked():
        config.update_from_flattened_dict(fields)
    return build_conditions(resolve(config, fields), mnist)[0].student


def batch_of(phase, mnist, number=0, key=3):
    data = jax.device_put(mnist.train)
    return step.make_batch(phase.recipe, phase.knobs, None, keys.root(key), data, jnp.int32(number))


def start(phase, mnist):
    return step.init_state(phase.recipe, phase.knobs, None, mnist.train.x.shape[1:], keys.root(0))


@pytest.fixture(scope="module")
def trained(mnist):
    """A phase, its initial state, and a function that trains it from one step to another."""
    phase, data = phase_of(mnist), jax.device_put(mnist.train)

    @jax.jit
    def advance(state, first, last):
        return step.advance(phase.recipe, state, phase.knobs, None, keys.root(3), data, first, last)

    return phase, start(phase, mnist), advance


def test_goals_have_one_weight_for_each_atom():
    assert {name: len(weights) for name, weights in GOALS.items()} == {
        name: 19 if name.startswith("trivariate") else 5 for name in GOALS
    }
    names = infomorphic.atom_names(3)
    assert [names[index] for index, weight in enumerate(GOALS["trivariate_simplified"]) if weight] == [
        "{1}{2}{3}",
        "{1}{2}",
        "{1}{3}",
        "{12}{13}",
    ]
    assert np.argmax(GOALS["lateral_heuristic"]) == infomorphic.atom_names(2).index("{1}")


@pytest.mark.parametrize(("sources", "name"), [(2, "{3}"), (3, "{2}{1}"), (3, "residue")])
def test_goal_refuses_names_that_are_no_atoms(sources, name):
    with pytest.raises(ConfigError, match="goal: "):
        infomorphic.goal(sources, **{name: 1.0})


def test_drawn_goal_is_a_point_of_the_cube_and_all_differ():
    points = np.array([infomorphic.drawn_goal(3, number) for number in range(1, 65)])
    assert np.abs(points).max(1).min() > 0.5  # the goal of zeros is none of them
    assert np.abs(np.corrcoef(points.T) - np.eye(19)).max() < 0.5
    assert points.shape == (64, 19) and (np.abs(points) < 1).all() and len(np.unique(points, axis=0)) == 64
    assert np.abs(points.mean(0)).max() < 0.05  # a Sobol sequence is even in every direction


@pytest.mark.parametrize("model", [model for model in SOURCES if model != "backprop"])
def test_local_goals_is_minus_the_goals_summed_over_units(model, mnist):
    phase = phase_of(mnist, model)
    batch, params = batch_of(phase, mnist), start(phase, mnist).params
    out = step.apply(phase.recipe.net, params, batch.x)
    loss = LocalGoals()(out, batch.target, phase.knobs)
    assert loss.shape == batch.y.shape and (loss == loss[0]).all()
    weights = jnp.full(len(batch.y), 1 / len(batch.y))
    extra = phase.knobs.extra
    expected = -(infomorphic.readout_atoms(out, "class_head", weights) @ extra["readout_goal"]).sum()
    if "hidden_goal" in extra:
        expected -= (infomorphic.hidden_atoms(out, weights) @ extra["hidden_goal"]).sum()
    assert ("hidden_goal" in extra) == (model not in ("readout", "random_projection"))
    np.testing.assert_allclose(loss[0], expected, rtol=1e-5)


def test_local_goals_leave_out_padding_rows(mnist):
    phase = phase_of(mnist)
    number = len(mnist.train.y) // 128  # the last batch of an epoch: 104 of 128 rows are images
    batch, params = batch_of(phase, mnist, number), start(phase, mnist).params
    real = np.asarray(batch.y) >= 0
    assert 0 < real.sum() < len(real)

    def loss(params, rows):
        out = step.apply(phase.recipe.net, params, batch.x)
        out = jax.tree.map(lambda leaf: leaf[rows], out)
        return LocalGoals()(out, batch.target[rows], phase.knobs)[0]

    slope = jax.jit(jax.value_and_grad(loss))
    whole, short = (slope(params, rows) for rows in (np.arange(len(real)), np.flatnonzero(real)))
    np.testing.assert_allclose(whole[0], short[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), whole[1], short[1])


def test_local_goals_of_one_layer_do_not_move_another(mnist):
    phase = phase_of(mnist)
    batch, params = batch_of(phase, mnist), start(phase, mnist).params

    def gradient(**goals):
        knobs = dataclasses.replace(phase.knobs, extra={**phase.knobs.extra, **goals})

        def loss(params):
            return phase.recipe.loss(step.apply(phase.recipe.net, params, batch.x), batch.target, knobs).mean()

        return jax.grad(loss)(params)

    hidden, readout = gradient(readout_goal=jnp.zeros(5)), gradient(hidden_goal=jnp.zeros(19))
    assert all((array == 0).all() for array in hidden["class_head"].values())
    for layer in SOURCES["context_lateral"]:
        assert all((array == 0).all() for array in readout[layer].values())
        assert any((array != 0).any() for array in hidden[layer].values())
    both = gradient()
    for layer, arrays in both.items():
        own = readout if layer == "class_head" else hidden
        assert all((arrays[name] == own[layer][name]).all() for name in arrays)


def test_label_context_is_the_label_and_nothing_for_padding(trained):
    x = jnp.zeros((3, 2, 2))
    given = LabelContext(4)(keys.root(0), x, jnp.array([2, 0, -1]), trained[0].knobs)
    assert np.asarray(given.context).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_teacher_bits_have_the_teachers_probabilities_and_masked_ones_are_constant(trained):
    logits = jnp.tile(jnp.array([9.0, 9.0, 2.0, -1.0, 0.0]), (4000, 1))
    knobs = dataclasses.replace(trained[0].knobs, logit_mask=jnp.array([False, False, True, True, False]))
    target = ModelOutput(jnp.zeros((4000, 1)), logits, {})
    bits = np.asarray(TeacherBits(2)(keys.root(0), jnp.zeros((4000, 2, 2)), target, knobs).context)
    assert set(np.unique(bits)) == {-1.0, 1.0} and (bits[:, 2] == -1).all()
    np.testing.assert_allclose((bits[:, :2] > 0).mean(0), 1 / (1 + np.exp([-2.0, 1.0])), atol=0.04)
    shuffled = TeacherBits(2, shuffled=True)(keys.root(0), jnp.zeros((4000, 2, 2)), target, knobs).context
    assert (np.asarray(shuffled) == np.roll(bits, 1, 0)).all()


@pytest.mark.parametrize("connections", [1, 3, 5, 9])
def test_sparse_lateral_leaves_every_unit_its_number_of_other_inputs(connections):
    params = {"lateral": {"kernel": jnp.ones((6, 6)), "bias": jnp.ones(6)}, "context": {"bias": jnp.ones(2)}}
    sparse = SparseLateral(connections)(keys.root(0), params)
    kernel = np.asarray(sparse["lateral"]["kernel"])
    assert (np.count_nonzero(kernel * (1 - np.eye(6)), axis=0) == min(connections, 5)).all()
    assert (np.diagonal(kernel) == 0).all() and sparse["context"] is params["context"]


def test_sparse_lateral_connections_stay_as_they_are_in_training(mnist):
    phase = phase_of(mnist, **{"infomorphic.lateral_inputs": 2})
    state = start(phase, mnist)
    absent = np.asarray(state.params["lateral"]["kernel"]) == 0
    assert (absent.sum(0) == 8 - 2).all()
    for number in range(3):
        state = step.train_step(phase.recipe, state, phase.knobs, batch_of(phase, mnist, number))
    assert ((np.asarray(state.params["lateral"]["kernel"]) == 0) == absent).all()


def test_adam_l2_by_layer_is_adam_with_each_layers_decay(mnist):
    params = {"hidden_0": {"kernel": jnp.array([[2.0]])}, "class_head": {"kernel": jnp.array([[3.0]])}}
    gradient = jax.tree.map(lambda leaf: 0.1 * leaf, params)
    directions = {}
    for decay in (0.5, 0.25):
        optimizer = optimizers.AdamL2(decay)()
        directions[decay] = optimizer.update(gradient, optimizer.init(params), params)[0]
    mixed = optimizers.AdamL2ByLayer(0.5, (("class_head", 0.25),))()
    direction = mixed.update(gradient, mixed.init(params), params)[0]
    assert direction["hidden_0"] == directions[0.5]["hidden_0"]
    assert direction["class_head"] == directions[0.25]["class_head"]


def test_advance_in_two_parts_is_as_in_one(trained):
    _, state, advance = trained
    whole = advance(state, 0, 5)
    parts = advance(advance(state, 0, 2), 2, 5)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), whole, parts))
    assert all((whole.params[layer]["kernel"] != state.params[layer]["kernel"]).any() for layer in whole.params)


def test_advance_learns_digits_by_local_goals(mnist):
    phase = phase_of(mnist, "context", **{"infomorphic.units": 60})
    state, data = start(phase, mnist), jax.device_put(mnist.train)
    arguments = phase.recipe, state, phase.knobs, None, keys.root(3), data, 0, 240
    after = jax.jit(step.advance, static_argnums=0)(*arguments)
    images = (mnist.test.x / np.float32(255) - mnist.test.mean) / mnist.test.std

    def accuracy(state):
        logits = step.apply(phase.recipe.net, state.params, jnp.asarray(images, jnp.float32)).logits
        return float((logits.argmax(-1) == mnist.test.y).mean())

    assert accuracy(state) < 0.3 < 0.5 < accuracy(after)


@pytest.mark.parametrize("model", SOURCES)
def test_phase_trains_the_layers_it_has(model, mnist):
    phase = phase_of(mnist, model)
    assert set(phase.knobs.trainable) == set(shapes(phase.recipe.net, (28, 28)))
    frozen = {layer for layer, factor in phase.knobs.trainable.items() if factor == 0}
    assert frozen == ({"hidden_0", "context"} if model == "random_projection" else set())
    state = start(phase, mnist)
    after = step.train_step(phase.recipe, state, phase.knobs, batch_of(phase, mnist)).params
    moved = {layer for layer in after if (after[layer]["kernel"] != state.params[layer]["kernel"]).any()}
    assert moved == set(after) - frozen


@pytest.mark.parametrize("model", ["context", "context_lateral"])
def test_hidden_atoms_take_scaled_bins_where_they_are_asked_for(model, mnist):
    phase = phase_of(mnist, model, **{"infomorphic.binning": "scaled"})
    assert phase.recipe.loss == LocalGoals(scaled=True)
    batch, params = batch_of(phase, mnist), start(phase, mnist).params
    out = step.apply(phase.recipe.net, params, batch.x)
    weights = jnp.full(len(batch.y), 1 / len(batch.y))
    sources = [out.acts[layer] for layer in SOURCES[model]]
    theta = jax.nn.sigmoid(out.acts["drive"])
    for scaled, cut in ((True, bins_scaled), (False, bins_fixed)):
        expected = atoms(tuple(cut(source) for source in sources), theta)
        np.testing.assert_allclose(infomorphic.hidden_atoms(out, weights, scaled=scaled), expected, atol=1e-5)

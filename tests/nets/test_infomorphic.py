"""Infomorphic units against formulas written out in NumPy, and what may not influence what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import ContextInputs
from sublim_jax.nets import Infomorphic, shapes
from sublim_jax.nets.infomorphic import SOURCES
from sublim_jax.training import inits, step

IMAGE, UNITS, BATCH = (4, 4), 6, 40
apply = jax.jit(step.apply, static_argnums=0)
initial = jax.jit(step.init_params, static_argnums=(0, 1, 2))
LOCAL = [model for model in SOURCES if model not in ("readout", "backprop")]


def net_of(model, **fields):
    return Infomorphic(model, **{"units": UNITS, "classes": 3, "contexts": 3, **fields})


def params_of(net, seed=0):
    return initial(net, inits.torch_linear, IMAGE, keys.root(seed))


def inputs(seed=1):
    images = keys.normal(keys.root(seed), (BATCH, *IMAGE))
    return ContextInputs(images, jax.nn.one_hot(jnp.arange(BATCH) % 3, 3), keys.at(keys.root(seed), "samples"))


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, float)))


def linear(params, layer, x):
    return np.asarray(x, float) @ np.asarray(params[layer]["kernel"], float) + np.asarray(params[layer]["bias"], float)


@pytest.mark.parametrize("model", SOURCES)
def test_infomorphic_has_the_layers_of_its_sources_and_heads(model):
    layers = shapes(net_of(model, aux=2), IMAGE)
    assert set(layers) == {*SOURCES[model], "class_head", "aux_head"}
    assert layers["class_head"]["kernel"].shape == (16 if model == "readout" else UNITS, 3)


def test_infomorphic_drive_of_three_sources_is_the_published_activation():
    net, given = net_of("context_lateral"), inputs()
    params = params_of(net)
    acts = apply(net, params, given).acts
    r, c = linear(params, "hidden_0", given.images.reshape(BATCH, -1)), linear(params, "context", given.context)
    np.testing.assert_allclose(acts["hidden_0"], r, atol=1e-5)
    np.testing.assert_allclose(acts["context"], c, atol=1e-5)
    expected = r * ((1 - 0.1 - 0.1) + 0.1 * sigmoid(2 * r * c) + 0.1 * sigmoid(2 * r * acts["lateral"]))
    np.testing.assert_allclose(acts["drive"], expected, atol=1e-5)


def test_infomorphic_drive_of_two_sources_is_the_published_activation():
    net, given = net_of("context"), inputs()
    acts = apply(net, params_of(net), given).acts
    r, c = np.asarray(acts["hidden_0"], float), np.asarray(acts["context"], float)
    np.testing.assert_allclose(acts["drive"], r * (0.9 + 0.1 * 2 * sigmoid(2 * r * c)), atol=1e-5)


@pytest.mark.parametrize("model", ["context", "lateral"])
def test_infomorphic_clamps_the_probability_of_two_sources(model):
    net, given = net_of(model), inputs()
    params = params_of(net)
    large = {"kernel": params["hidden_0"]["kernel"] * 1e3, "bias": params["hidden_0"]["bias"]}
    acts = apply(net, {**params, "hidden_0": large}, given).acts
    drive, outside = np.asarray(acts["drive"]), np.abs(acts["hidden_0"]) > 20
    assert 0 < outside.sum() < outside.size
    probability = np.where(acts["hidden_0"] > 0, 1 - 1e-6, 1e-6)
    np.testing.assert_allclose(drive[outside], np.log(probability / (1 - probability))[outside], rtol=1e-5)


def test_infomorphic_does_not_clamp_the_drive_of_three_sources():
    net, given = net_of("context_lateral"), inputs()
    params = params_of(net)
    large = {"kernel": params["hidden_0"]["kernel"] * 1e3, "bias": params["hidden_0"]["bias"]}
    assert np.abs(apply(net, {**params, "hidden_0": large}, given).acts["drive"]).max() > 20


def test_infomorphic_random_projection_is_the_step_of_the_drive():
    net, given = net_of("random_projection"), inputs()
    out = apply(net, params_of(net), given)
    assert (out.features == (out.acts["drive"] > 0)).all()
    assert set(np.unique(out.features)) == {0.0, 1.0}


def test_infomorphic_draws_the_passes_apart():
    """With lateral weights that change no probability, both passes have equal probabilities and other samples."""
    net, given = net_of("lateral"), inputs()
    params = params_of(net)
    flat = {**params["hidden_0"], "kernel": jnp.zeros_like(params["hidden_0"]["kernel"])}
    params = {**params, "hidden_0": {**flat, "bias": jnp.zeros(UNITS)}}
    out = apply(net, params, given)
    kernel = np.asarray(params["lateral"]["kernel"]) * (1 - np.eye(UNITS))
    lateral = np.asarray(out.acts["lateral"]) - np.asarray(params["lateral"]["bias"])
    earlier = np.sign(np.linalg.lstsq(kernel.T, lateral.T, rcond=None)[0].T)
    assert np.abs(out.acts["drive"]).max() == 0
    assert 0.35 < (earlier == np.asarray(out.features)).mean() < 0.65  # 240 fair coins


@pytest.mark.parametrize("model", ["context_lateral", "lateral", "feedback"])
def test_infomorphic_lateral_source_is_read_from_an_earlier_pass(model):
    net, given = net_of(model), inputs()
    params = params_of(net)
    kernel = np.asarray(params["lateral"]["kernel"]) * (1 - np.eye(UNITS))
    lateral = np.asarray(apply(net, params, given).acts["lateral"]) - np.asarray(params["lateral"]["bias"])
    earlier = np.linalg.lstsq(kernel.T, lateral.T, rcond=None)[0]
    np.testing.assert_allclose(np.abs(earlier), 1, atol=1e-3)  # outputs are -1 or 1


def test_infomorphic_samples_have_the_probability_of_the_drive():
    net, params = net_of("context_lateral"), params_of(net_of("context_lateral"))
    given = inputs()
    out = jax.vmap(lambda key: apply(net, params, given._replace(key=key)))(jax.random.split(jax.random.key(0), 2000))
    assert set(np.unique(out.features)) == {-1.0, 1.0}
    drawn, expected = (np.asarray(out.features) > 0).mean(0), sigmoid(out.acts["drive"]).mean(0)
    assert np.abs(drawn - expected).max() < 5 * 0.5 / np.sqrt(2000)


@pytest.mark.parametrize("model", LOCAL)
def test_infomorphic_passes_no_gradient_between_layers_or_passes(model):
    net, given = net_of(model, aux=2), inputs()
    params = params_of(net)

    def total(params, name):
        return (apply(net, params, given).acts[name] ** 2).sum()

    for head in ("readout", "aux_head"):
        gradient = jax.grad(total)(params, head)
        for layer in SOURCES[model]:
            assert all((array == 0).all() for array in gradient[layer].values()), f"{head} moves {layer}"
    gradient = jax.grad(total)(params, "drive")
    assert all((array == 0).all() for head in ("class_head", "aux_head") for array in gradient[head].values())
    if "lateral" in SOURCES[model]:  # neither does the last pass move what the first one computed
        alone = jax.grad(lambda params: (apply(net, params, given).acts["lateral"] ** 2).sum())(params)
        others = [layer for layer in SOURCES[model] if layer != "lateral"]
        assert all((array == 0).all() for layer in others for array in alone[layer].values())


def test_infomorphic_backprop_passes_gradients_through_samples_and_passes():
    net, given = net_of("backprop"), inputs()
    out = apply(net, params_of(net), given)
    assert set(np.unique(np.round(out.features, 5))) == {0.0, 1.0}
    gradient = jax.grad(lambda params: apply(net, params, given).logits[:, 0].sum())(params_of(net))
    assert all((array != 0).any() for arrays in gradient.values() for array in arrays.values())
    np.testing.assert_allclose(out.logits, sigmoid(out.acts["readout"]), atol=1e-6)


def test_infomorphic_lateral_connections_of_weight_zero_and_to_itself_do_not_exist():
    net, given = net_of("context_lateral"), inputs()
    params = params_of(net)
    kernel = params["lateral"]["kernel"].at[2, 3].set(0.0)
    params = {**params, "lateral": {**params["lateral"], "kernel": kernel}}
    gradient = jax.grad(lambda params: apply(net, params, given).acts["drive"].sum())(params)["lateral"]["kernel"]
    absent = np.eye(UNITS, dtype=bool)
    absent[2, 3] = True
    assert ((np.asarray(gradient) == 0) == absent).all()
    itself = {**params, "lateral": {**params["lateral"], "kernel": kernel + 5 * jnp.eye(UNITS)}}
    assert (apply(net, itself, given).acts["lateral"] == apply(net, params, given).acts["lateral"]).all()


@pytest.mark.parametrize("model", ["context", "context_lateral"])
def test_infomorphic_context_of_images_alone_is_its_bias(model):
    net, given = net_of(model), inputs()
    params = params_of(net)
    out = apply(net, params, given.images)
    np.testing.assert_allclose(out.acts["context"], np.tile(params["context"]["bias"], (BATCH, 1)), atol=1e-7)
    other = {**params, "context": {**params["context"], "kernel": params["context"]["kernel"] + 1}}
    assert (apply(net, other, given.images).logits == out.logits).all()


def test_infomorphic_samples_of_images_alone_depend_on_the_images_and_the_sampler():
    net, given = net_of("context"), inputs()
    params = params_of(net)
    first = apply(net, params, given.images).features
    assert (first == apply(net, params, given.images).features).all()
    assert (first != apply(net_of("context", sampler="teacher"), params, given.images).features).any()


def test_infomorphic_feedback_is_the_read_out_and_not_the_label():
    net, given = net_of("feedback"), inputs()
    params = params_of(net)
    other = given._replace(context=jnp.roll(given.context, 1, 1))
    outputs = apply(net, params, given), apply(net, params, other)
    assert (outputs[0].acts["drive"] == outputs[1].acts["drive"]).all()
    assert (outputs[1].acts["given"] == other.context).all()
    kernel, bias = (np.asarray(params["context"][name]) for name in ("kernel", "bias"))
    sampled = np.linalg.lstsq(kernel.T, (np.asarray(outputs[0].acts["context"]) - bias).T, rcond=None)[0]
    np.testing.assert_allclose(np.abs(sampled), 1, atol=1e-3)


def test_infomorphic_turns_class_logits_that_are_probable_on_average():
    net, given = net_of("readout"), inputs()
    params = params_of(net)
    bias = jnp.array([3.0, -3.0, 3.0])
    params = {**params, "class_head": {**params["class_head"], "bias": bias}}
    out = apply(net, params, given)
    turned = sigmoid(out.acts["readout"]).mean(0) > 0.5
    assert turned.tolist() == [True, False, True]
    np.testing.assert_allclose(out.logits, np.where(turned, -1, 1) * np.asarray(out.acts["readout"]), atol=1e-6)


@pytest.mark.parametrize("model", SOURCES)
def test_infomorphic_under_vmap_is_as_in_a_loop(model):
    net, given = net_of(model), inputs()
    every = [params_of(net, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *every)
    together = jax.vmap(lambda params: apply(net, params, given))(stacked)
    for index, params in enumerate(every):
        alone = apply(net, params, given)
        assert (together.features[index] == alone.features).all()
        np.testing.assert_allclose(together.logits[index], alone.logits, atol=1e-5)


def test_infomorphic_refuses_an_unknown_model():
    with pytest.raises(ConfigError, match="Infomorphic.model"):
        shapes(net_of("sideways"), IMAGE)

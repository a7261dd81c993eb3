"""Convolutions and pooling against SciPy and loops; both ways of convolving agree; gradients against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from sublim_jax.core import keys, trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.engine.first_steps import float64
from sublim_jax.nets import ACTIVATIONS, CNN, MLP, SplitHead, cnn, multiply_adds, shapes
from sublim_jax.nets.activations import RISING
from sublim_jax.training import inits
from sublim_jax.training import step as training_step

SMALL = CNN(channels=(3, 4), pools=(2, 3), hidden=(5,))
IMAGE = (11, 8)


def params_of(net, image=IMAGE):
    return jax.tree.map(jnp.asarray, training_step.init_params(net, inits.torch_linear, image, keys.root(0)))


def images_of(n, image=IMAGE):
    return jax.random.normal(jax.random.key(1), (n, *image))


def slow_pool(h, pool):
    found = np.zeros((len(h), h.shape[1] // pool, h.shape[2] // pool, h.shape[3]), h.dtype)
    for i, j in np.ndindex(*found.shape[1:3]):
        found[:, i, j] = h[:, i * pool : (i + 1) * pool, j * pool : (j + 1) * pool].max((1, 2))
    return found


def slow(net, params, x):
    """The maps of every convolutional layer, by SciPy and loops."""
    h, found = np.asarray(x, np.float64)[..., None], []
    function = ACTIVATIONS[net.activation]
    for index, pool in enumerate(net.pools):
        kernel, bias = (np.asarray(params[f"conv_{index}"][name], np.float64) for name in ("kernel", "bias"))
        full = np.zeros((*h.shape[:3], len(bias)))
        for image, i, o in np.ndindex(len(h), *kernel.shape[2:]):
            full[image, ..., o] += correlate2d(h[image, ..., i], kernel[..., i, o], mode="same")
        h = slow_pool(np.asarray(function(jnp.asarray(full + bias, jnp.float32)), np.float64), pool)
        found.append(h)
    return found


def test_shapes_of_the_cnn_are_those_of_the_paper():
    trunk = {
        layer: arrays for layer, arrays in shapes(SplitHead(CNN(), 10, 3), (28, 28)).items() if "head" not in layer
    }
    assert sorted(trunk) == ["conv_0", "conv_1", "hidden_0"]
    assert trunk["conv_1"]["kernel"].shape == (3, 3, 32, 128) and trunk["conv_1"]["bias"].shape == (128,)
    assert trunk["hidden_0"]["kernel"].shape == (3 * 3 * 128, 256)
    assert trees.count(trunk) == 332_480


def test_torch_linear_counts_the_pixels_of_a_kernel():
    layer = inits.torch_linear(keys.root(0), shapes(SplitHead(CNN(), 10, 0), (28, 28))["conv_1"])
    for array in layer.values():
        assert 0.97 < np.abs(array).max() * np.sqrt(9 * 32) <= 1


def test_activations_that_rise_are_those_listed():
    x = jnp.linspace(-6, 6, 10_001)
    falls = {name: bool((jnp.diff(function(x)) < -1e-6).any()) for name, function in ACTIVATIONS.items()}
    assert {name for name, does in falls.items() if not does} == RISING


@pytest.mark.parametrize(("pool", "dtype"), [(1, "float32"), (2, "bfloat16"), (3, "float32")])
def test_conv_im2col_agrees_with_conv_xla(pool, dtype):
    h, kernel = jax.random.normal(jax.random.key(2), (2, 9, 7, 4)), jax.random.normal(jax.random.key(3), (3, 3, 4, 6))
    one, other = (way(h, kernel, pool, dtype) for way in (cnn.conv_im2col, cnn.conv_xla))
    assert one.dtype == other.dtype == "float32" and one.shape == (2, 9 // pool * pool, 7 // pool * pool, 6)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    if dtype == "bfloat16":
        assert not np.allclose(one, cnn.conv_im2col(h, kernel, pool, "float32"), rtol=1e-4, atol=1e-4)


@pytest.mark.e2e
def test_cnn_on_an_accelerator_is_the_same_net(monkeypatch):
    params, x = params_of(SMALL), images_of(3)

    def both(params):
        features, acts = SMALL.apply({"params": params}, x)
        return (features**2).sum() + acts["conv_0"].sum()

    value, grad = jax.value_and_grad(both)(params)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    other, other_grad = jax.value_and_grad(both)(params)
    np.testing.assert_allclose(value, other, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), grad, other_grad)


@pytest.mark.parametrize("n", [1, 20, 45])
def test_cnn_agrees_with_scipy_and_loops_whatever_its_blocks(n):
    """20 images are one block."""
    net = SplitHead(SMALL.clone(activation="tanh"), 10, 3)
    params, x = params_of(net), images_of(45)[:n]
    out = training_step.apply(net, params, x)
    assert list(out.acts) == ["conv_0", "conv_1", "hidden_0", "class_head", "aux_head"]
    for index, wanted in enumerate(slow(net.trunk, params, x)):
        np.testing.assert_allclose(out.acts[f"conv_{index}"], wanted, rtol=1e-4, atol=1e-5)
    assert out.acts["conv_0"].shape == (n, 5, 4, 3) and out.acts["conv_1"].shape == (n, 1, 1, 4)
    h = np.asarray(out.acts["conv_1"]).reshape(n, -1) @ params["hidden_0"]["kernel"] + params["hidden_0"]["bias"][None]
    np.testing.assert_allclose(out.features, np.tanh(h), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(out.features, out.acts["hidden_0"])


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
@pytest.mark.e2e
def test_cnn_gradients_agree_with_finite_differences(activation):
    net = SMALL.clone(activation=activation)
    with float64(True):
        params = jax.tree.map(lambda w: w.astype("float64"), params_of(net))
        x = jax.random.normal(jax.random.key(4), (23, *IMAGE), "float64")
        keyed = jax.tree.unflatten(jax.tree.structure(params), list(jax.random.split(jax.random.key(5), 6)))
        direction = jax.tree.map(lambda w, key: jax.random.normal(key, w.shape, "float64"), params, keyed)

        def loss(step, params=params, x=x):
            moved = jax.tree.map(lambda w, d: w + step * d, params, direction)
            return (net.apply({"params": moved}, x + step)[0] ** 2).sum()

        numeric = (loss(1e-6) - loss(-1e-6)) / 2e-6
        np.testing.assert_allclose(jax.grad(loss)(0.0), numeric, rtol=1e-5)
        np.testing.assert_allclose(jax.jvp(loss, (0.0,), (1.0,))[1], numeric, rtol=1e-5)


@pytest.mark.parametrize("pool", [1, 2, 3])
def test_pooled_and_its_gradient_drop_the_border_and_choose_the_first_of_equals(pool):
    h = jnp.round(jax.random.normal(jax.random.key(6), (2, 6, 6, 5)))  # rounded, so that there are equals
    found, back = jax.vjp(lambda h: cnn.pooled(h, pool), h)
    np.testing.assert_array_equal(found, slow_pool(np.asarray(h), pool))
    given = np.asarray(jax.random.normal(jax.random.key(7), found.shape))
    wanted = np.zeros(h.shape, np.float32)
    for n, i, j, c in np.ndindex(*found.shape):
        place = np.asarray(h)[n, i * pool : (i + 1) * pool, j * pool : (j + 1) * pool, c].argmax()
        wanted[n, i * pool + place // pool, j * pool + place % pool, c] = given[n, i, j, c]
    np.testing.assert_array_equal(back(jnp.asarray(given))[0], wanted)


def test_cnn_memory_does_not_grow_with_the_patches_of_a_batch():
    x = jax.ShapeDtypeStruct((1000, 28, 28), jnp.float32)
    params = jax.eval_shape(CNN().init, jax.random.key(0), x)

    def mean(params, x):
        return (CNN().apply(params, x)[0] ** 2).mean()

    for function, megabytes in ((jax.grad(mean), 100), (mean, 30)):  # all patches and full-size maps are 700
        used = jax.jit(function).lower(params, x).compile().memory_analysis()
        assert used.temp_size_in_bytes < megabytes * 1e6


@pytest.mark.e2e
def test_cnn_rounds_products_on_the_way_and_back():
    params, x = params_of(SMALL), images_of(30)

    def value_and_grad(net):
        return jax.jit(jax.value_and_grad(lambda params: (net.apply({"params": params}, x)[0] ** 2).sum()))(params)

    (value, grad), (low, low_grad) = value_and_grad(SMALL), value_and_grad(SMALL.clone(dtype="bfloat16"))
    assert value != low
    np.testing.assert_allclose(value, low, rtol=0.03)
    for full, rounded in zip(jax.tree.leaves(grad), jax.tree.leaves(low_grad), strict=True):
        assert rounded.dtype == "float32"
        np.testing.assert_allclose(rounded, full, atol=0.05 * float(jnp.abs(full).max()))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (CNN(channels=(3, 4), pools=(2,)), "pools: .* does not give one window"),
        (CNN(channels=(3,), pools=(9,)), "a window of 9 does not fit into maps of 11 x 8 pixels"),
        (SMALL.clone(activation="rely"), "activation: 'rely' is none of .*did you mean 'relu'"),
        (MLP(activation="rely"), "activation: 'rely' is none of .*did you mean 'relu'"),
    ],
)
def test_shapes_refuses_impossible_nets(net, message):
    with pytest.raises(ConfigError, match=message):
        shapes(SplitHead(net, 10, 5), IMAGE)


def test_multiply_adds_are_counted_where_pooling_reads():
    net = SplitHead(CNN(), 10, 50)
    dense = 1152 * 256 + 256 + 256 * 60 + 60
    assert multiply_adds(net, (28, 28)) == (9 * 32 + 32) * 28 * 28 + (9 * 32 * 128 + 128) * 12 * 12 + dense
    plain = SplitHead(MLP((16,)), 10, 5)
    assert multiply_adds(plain, (28, 28)) == 784 * 16 + 16 + 16 * 15 + 15

"""Layers stand side by side; a narrow head is a prefix of a wide one."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sublim_jax.core import keys
from sublim_jax.engine.first_steps import float64
from sublim_jax.nets import ACTIVATIONS, MLP, SplitHead, shapes
from sublim_jax.nets.matmul import product
from sublim_jax.training import inits
from sublim_jax.training import step as training_step

IMAGE = (28, 28)
INITS = [inits.torch_linear, inits.normal_fan_in]


def net_of(aux, hidden=(32, 16)):
    return SplitHead(MLP(hidden), 10, aux)


def test_shapes_have_top_level_names():
    assert sorted(shapes(net_of(5), IMAGE)) == ["aux_head", "class_head", "hidden_0", "hidden_1"]
    assert "aux_head" not in shapes(net_of(0), IMAGE)


@pytest.mark.parametrize("init", INITS)
def test_init_params_of_a_narrow_head_is_a_prefix_of_a_wide_one(init):
    narrow, wide = (training_step.init_params(net_of(aux), init, IMAGE, keys.root(2)) for aux in (4, 16))
    # The words of the cipher are equal; the inverse error function may round by the shape of what it is given.
    rtol = 0 if init is inits.torch_linear else 3e-7
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(narrow["aux_head"][name], wide["aux_head"][name][..., :4], rtol=rtol)
    for layer in ("hidden_0", "hidden_1", "class_head"):
        jax.tree.map(np.testing.assert_array_equal, narrow[layer], wide[layer])


def test_torch_linear_is_uniform_within_its_bound():
    layer = inits.torch_linear(keys.root(0), shapes(net_of(0, (256, 256)), IMAGE)["hidden_1"])
    for array in layer.values():
        assert stats.kstest(np.ravel(array) * math.sqrt(256), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert abs(np.asarray(layer["kernel"])).max() <= 1 / 16


def test_normal_fan_in_is_normal_with_zero_bias():
    layer = inits.normal_fan_in(keys.root(0), shapes(net_of(0, (256, 256)), IMAGE)["hidden_1"])
    assert stats.kstest(np.ravel(layer["kernel"]) * 16, "norm").pvalue > 1e-3
    assert not jnp.any(layer["bias"])


def test_product_rounds_its_operands():
    """On the way and back: operands and the incoming gradient in bfloat16, sums in float32."""
    keys_ = jax.random.split(jax.random.key(0), 3)
    a, b, g = (jax.random.normal(key, shape) for key, shape in zip(keys_, ((5, 40), (40, 7), (5, 7)), strict=True))
    low = {name: x.astype("bfloat16").astype("float32") for name, x in (("a", a), ("b", b), ("g", g))}
    value, back = jax.vjp(lambda a, b: product(a, b, "bfloat16"), a, b)
    da, db = back(g)
    np.testing.assert_allclose(value, low["a"] @ low["b"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(da, low["g"] @ low["b"].T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(db, low["a"].T @ low["g"], rtol=1e-5, atol=1e-5)
    assert value.dtype == da.dtype == db.dtype == "float32"
    np.testing.assert_array_equal(product(a, b, "float32"), a @ b)
    assert not np.array_equal(value, a @ b)


@pytest.mark.e2e
def test_split_head_dtype_reaches_every_product_and_leaves_weights_alone():
    x = jax.random.uniform(jax.random.key(1), (6, 28, 28))
    nets = {dtype: SplitHead(MLP((32, 16), dtype), 10, 4, dtype) for dtype in ("float32", "bfloat16")}
    variables = nets["float32"].init(jax.random.key(0), x)
    full, low = (nets[dtype].apply(variables, x) for dtype in nets)
    assert low.logits.dtype == "float32" and not np.array_equal(low.logits, full.logits)
    np.testing.assert_allclose(low.logits, full.logits, rtol=0.1, atol=0.02)
    assert shapes(nets["float32"], (28, 28)) == shapes(nets["bfloat16"], (28, 28))
    program = str(jax.make_jaxpr(nets["bfloat16"].apply)(variables, x).jaxpr)
    assert program.count("f32[6,28,28]") >= 1 and len(re.findall(r"bf16\[(32|16|14),", program)) >= 3


def test_product_rounded_trains_whatever_order_its_parts_lie_in():
    """XLA on CPU may merge a bfloat16 product with a transpose into one that it cannot run."""
    x, net = jax.random.normal(jax.random.key(1), (300, 28, 28)), MLP((64, 32), "bfloat16")
    params = net.init(jax.random.key(0), x)
    grad = jax.jit(jax.grad(lambda params, x: (net.apply(params, x)[0] ** 2).sum()))(params, x)
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(grad))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("relu", lambda x: np.maximum(x, 0)),
        ("gelu", lambda x: x * stats.norm.cdf(x)),
        ("tanh", np.tanh),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("silu", lambda x: x / (1 + np.exp(-x))),
        ("leaky_relu", lambda x: np.where(x > 0, x, 0.01 * x)),
        ("identity", lambda x: x),
    ],
)
def test_activations_are_those_of_pytorch(name, wanted):
    x = np.linspace(-5, 5, 1001)
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x, jnp.float32)), wanted(x), rtol=1e-5, atol=1e-6)
    net = SplitHead(MLP((32, 16), activation=name), 10, 5)
    params = jax.tree.map(np.asarray, training_step.init_params(net, inits.torch_linear, IMAGE, keys.root(0)))
    images = jax.random.normal(jax.random.key(1), (4, *IMAGE))
    out, h = training_step.apply(net, params, images), np.asarray(images, np.float64).reshape(4, -1)
    for layer in ("hidden_0", "hidden_1"):
        h = wanted(h @ params[layer]["kernel"] + params[layer]["bias"])
        np.testing.assert_allclose(out.acts[layer], h, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(out.features, out.acts["hidden_1"])
    logits = [h @ params[head]["kernel"] + params[head]["bias"] for head in ("class_head", "aux_head")]
    np.testing.assert_allclose(out.logits, np.concatenate(logits, -1), rtol=1e-4, atol=1e-5)


def test_shapes_are_not_changed_by_double_precision_elsewhere():
    net = SplitHead(MLP((9,)), 10, 4)
    with float64(True):
        wide = shapes(net, (5, 5))["class_head"]["kernel"]
    assert (wide.dtype, shapes(net, (5, 5))["class_head"]["kernel"].dtype) == (jnp.float64, jnp.float32)

"""`build` takes trunks of plain Flax modules with their default names: LayerNorm, attention, an MLP-mixer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sublim_jax as sl
from sublim_jax.core.types import TeacherParams
from sublim_jax.training import step as training_step

IMAGE, HEADS = (8, 8), ["aux_head", "class_head"]


class Normed(nn.Module):
    """Dense layers; `LayerNorm` has a scale and a bias, `RMSNorm` only a scale."""

    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.LayerNorm()(nn.Dense(8)(x.reshape(len(x), -1))))
        return nn.RMSNorm()(h), {"Dense_0": h}


class Block(nn.Module):
    """Attention and an MLP, whose parameters are a tree of three levels."""

    @nn.compact
    def __call__(self, h):
        h = h + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(h))
        return h + nn.Dense(8)(nn.relu(nn.Dense(16)(nn.LayerNorm()(h))))


class Transformer(nn.Module):
    """Patches with places, which are an array that the module itself holds."""

    @nn.compact
    def __call__(self, x):
        h = nn.Conv(8, (4, 4), strides=(4, 4))(x[..., None]).reshape(len(x), -1, 8)
        h = Block()(h + self.param("pos_embedding", nn.initializers.normal(0.02), (1, *h.shape[1:])))
        return nn.LayerNorm()(h).mean(1), {"Block_0": h}


class Mixing(nn.Module):
    """Kernels over places, then over channels."""

    @nn.compact
    def __call__(self, h):
        places = nn.Dense(4)(nn.relu(nn.Dense(6)(nn.LayerNorm()(h).swapaxes(1, 2)))).swapaxes(1, 2)
        return h + places + nn.Dense(8)(nn.relu(nn.Dense(16)(nn.LayerNorm()(h + places))))


class Mixer(nn.Module):
    """An MLP-mixer with a convolution that makes patches."""

    @nn.compact
    def __call__(self, x):
        h = Mixing()(nn.Conv(8, (4, 4), strides=(4, 4))(x[..., None]).reshape(len(x), -1, 8))
        return nn.LayerNorm()(h).mean(1), {"Mixing_0": h}


LAYERS = {
    Normed: ["Dense_0", "LayerNorm_0", "RMSNorm_0"],
    Transformer: ["Block_0", "Conv_0", "LayerNorm_0", "pos_embedding"],
    Mixer: ["Conv_0", "LayerNorm_0", "Mixing_0"],
}
# Weights that one output sums over. Flax keeps the axes of heads apart and numbers the outer of nested layers first.
FAN_IN = {
    "Dense_0/kernel": 64,
    "Conv_0/kernel": 16,
    "Block_0/MultiHeadDotProductAttention_0/query/kernel": 8,
    "Block_0/MultiHeadDotProductAttention_0/out/kernel": 8,
    "Block_0/Dense_0/kernel": 16,
    "Block_0/Dense_1/kernel": 8,
    "Mixing_0/Dense_0/kernel": 6,
    "Mixing_0/Dense_1/kernel": 4,
}


@pytest.fixture(scope="module")
def data():
    x, y = np.random.default_rng(0).integers(0, 256, (60, *IMAGE), np.uint8), np.arange(60) % 3
    return sl.load_data(x=x[:40], y=y[:40], x_test=x[40:], y_test=y[40:])


@pytest.fixture
def condition(data):
    def of(trunk, **fields):
        small = {"m": 3, "student__steps": 1, "student__eval_steps": (), "num_eval_noise": 8, "student__batch": 4}
        config = sl.base_config("smoke", **{"conditions": "random_hidden", "teacher__batch": 20, **small, **fields})
        return sl.build(config, data, trunk=trunk())[0]

    return of


def drawn(condition):
    """Every array of a fresh student by its whole name."""
    recipe = condition.student.recipe
    layers = sl.nets.shapes(recipe.net, IMAGE).items()
    return {
        f"{layer}/{name}": np.asarray(array)
        for layer, arrays in layers
        for name, array in recipe.init(sl.keys.root(0), arrays).items()
    }


@pytest.mark.parametrize("init", ["torch_linear", "normal_fan_in", "transformer"])
@pytest.mark.parametrize("trunk", LAYERS)
def test_inits_draw_arrays_of_flax_modules_by_their_names(trunk, init, condition):
    arrays = drawn(condition(trunk, net__init=init))
    assert {name for name, array in arrays.items() if array.ndim and (array == 1).all()} == {
        name for name in arrays if name.endswith("scale")
    }
    for name in (name for name in arrays if "Norm_" in name and name.endswith("bias")):
        assert not arrays[name].any()
    scale = 3**-0.5 if init == "torch_linear" else 1.0  # the standard deviation of U(-1, 1) is 3^-1/2
    for name in FAN_IN.keys() & arrays.keys():
        four_errors = 4 / (2 * arrays[name].size) ** 0.5
        assert arrays[name].std() * FAN_IN[name] ** 0.5 == pytest.approx(scale, rel=four_errors), name
    if "pos_embedding/./pos_embedding" in arrays:
        assert arrays["pos_embedding/./pos_embedding"].std() < (0.04 if init == "transformer" else 0.5)


@pytest.mark.parametrize("trunk", LAYERS)
def test_build_names_the_layers_of_a_trunk_as_flax_does(trunk, condition):
    knobs = condition(trunk, student__frozen="LayerNorm_*").student.knobs
    assert sorted(knobs.share) == sorted([*LAYERS[trunk], *HEADS])
    assert sorted(layer for layer, share in knobs.share.items() if share == 0) == LAYERS[trunk]  # the heads are shared
    assert [layer for layer, trained in knobs.trainable.items() if not trained] == ["LayerNorm_0"]


@pytest.mark.parametrize(
    "trunk", [Normed, *(pytest.param(slow, marks=pytest.mark.e2e) for slow in (Transformer, Mixer))]
)
def test_advance_trains_a_trunk_of_flax_layers(trunk, condition, data):
    recipe, knobs = condition(trunk, student__frozen="LayerNorm_*").student
    teacher = training_step.init_state(recipe, knobs, None, IMAGE, sl.keys.root(1)).params
    state = training_step.init_state(recipe, knobs, teacher, IMAGE, sl.keys.root(2))
    out = training_step.apply(recipe.net, state.params, jnp.ones((5, *IMAGE)))
    assert (out.features.shape, out.logits.shape) == ((5, 8), (5, 6)) and np.isfinite(out.logits).all()
    step = jax.jit(training_step.advance, static_argnums=0)
    teachers, images = TeacherParams(teacher, teacher), jax.tree.map(jnp.asarray, data.train)
    end = step(recipe, state, knobs, teachers, sl.keys.root(3), images, jnp.int32(0), jnp.int32(1)).params
    moved = {name for name, layer in end.items() if any(np.any(layer[one] != state.params[name][one]) for one in layer)}
    assert moved == {*LAYERS[trunk], "aux_head"} - {"LayerNorm_0"}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(end))

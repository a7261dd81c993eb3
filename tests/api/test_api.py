"""The public names, and what they refuse."""

import importlib.metadata
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import sublim_jax as sl
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.trees import flatten_layers, unflatten_layers


@pytest.fixture(scope="module")
def data():
    x, y = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8), np.arange(60) % 3
    return sl.load_data(x=x[:40], y=y[:40], x_test=x[40:], y_test=y[40:])


def test_load_summarize_and_plot_import_no_jax_and_all_names_are_there():
    assert sl.__version__ == importlib.metadata.version("sublim_jax")
    assert set(sl.__all__) <= set(dir(sl))
    assert all(hasattr(sl, name) for name in sl.__all__)
    with pytest.raises(AttributeError, match="sumarize"):
        sl.sumarize  # noqa: B018
    code = "import sys, sublim_jax as sl; sl.load, sl.summarize, sl.plot; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"studnet__steps": 3}, "no field 'studnet.steps'; did you mean 'student.steps'"),
        ({"student": {"optimiser": "sgd"}}, "did you mean 'student.optimizer'"),
        ({"student__steps": "many"}, "config.student.steps='many': must be a whole number from"),
        ({"student": 3}, "no field 'student'"),
        ({"m": -1}, "config.m="),
        ({"preset": "tiny"}, "config.preset"),
        ({"study": "language", "lm__dose": -1.0}, "config.lm.dose=-1.0: must be a number above 0"),
        ({"study": "language", "m": 3}, "no field 'm'"),
    ],
)
def test_base_config_refuses_in_one_line(fields, message):
    with pytest.raises(ConfigError, match=message) as refused:
        sl.base_config(**fields)
    assert "\n" not in str(refused.value)


def test_base_config_takes_lists_numpy_numbers_and_nested_fields():
    config = sl.base_config("laptop", m=np.array([3, 5]), conditions=["same"], student={"lr": 1, "steps": np.int64(7)})
    assert (config.seeds, config.m, config.conditions) == (3, (3, 5), ("same",))
    assert (config.student.lr, config.student.steps) == (1.0, 7)
    with pytest.raises(ConfigError, match="did you mean 'student.share'"):
        sl.add_grid(config, "own", {"student.shar": (0, 1)})
    with pytest.raises(ConfigError, match="sequence"):
        sl.add_grid(config, "own", {"student.share": 0.5})


def test_a_language_config_has_its_own_fields_and_no_images(data):
    config = sl.base_config("smoke", study="language", lm={"steps": 4}, lm__eval_steps=2)
    assert (config.net.width, config.seeds, config.lm.steps, config.lm.eval_steps) == (32, 2, 4, (2,))
    assert sl.base_config("laptop", study="language").seeds == 5
    for function in (sl.build, sl.load_data):
        with pytest.raises(ConfigError, match="has no images"):
            function(config)
    with pytest.raises(ConfigError, match="has no images"):
        sl.run(config, data)


@pytest.mark.e2e
def test_run_takes_a_language_config(tmp_path):
    small = {
        "net": {"width": 16, "hidden": 32},
        "pretraining": {"documents": 640, "steps": 60, "batch": 16, "lr": 5e-3},
    }
    config = sl.base_config("smoke", study="language", **small, lm={"lines": 24, "steps": 4, "filtered": False})
    sl.add_grid(config, "own", {"lm.teacher": ("tuned", "base")})
    rows = sl.run(config, seeds=1, workdir=tmp_path)
    assert rows["teacher"].tolist() == ["tuned", "base"] and np.isfinite(rows["at/transfer"]).all()
    assert rows.equals(sl.load(tmp_path)) and rows.equals(sl.run(config, seeds=1, workdir=tmp_path))
    with pytest.raises(ConfigError, match="keep_params"):
        sl.run(config, seeds=1, workdir=tmp_path, keep_params=True)


def test_load_data_takes_arrays_and_refuses_others(data):
    assert (data.classes, data.name) == (3, "arrays")
    good = {"x": np.zeros((4, 8, 8)), "y": np.arange(4), "x_test": np.ones((2, 8, 8)), "y_test": np.arange(2)}
    good["x"][0] = 0.5
    assert sl.load_data(**good).train.x[0, 0, 0] == 128
    bad = {
        "x": [(good["x"] * 2.5, "in \\[0, 1\\]"), (good["x"] * np.nan, "in \\[0, 1\\]"), (good["x"][0], "shape")],
        "y": [(np.arange(3), "one label per image"), (np.arange(4) / 2, "integers"), (np.arange(4) - 1, "from -1")],
        "x_test": [(np.ones((2, 9, 9)), "must be \\(8, 8\\)"), (np.ones((2, 8, 8), np.int64), "dtype int64")],
        "y_test": [(np.array([0, 9]), "has the label 9")],
        "std": [(0.0, "std above 0")],
    }
    for name, cases in bad.items():
        for value, message in cases:
            with pytest.raises(ConfigError, match=message):
                sl.load_data(**{**good, name: value})
    with pytest.raises(ConfigError, match="y_test missing"):
        sl.load_data(**{name: good[name] for name in ("x", "y", "x_test")})
    with pytest.raises(ConfigError, match="did you mean 'train_limit'"):
        sl.load_data("mnist", train_limits=3)


def test_save_params_and_load_params_are_inverse(tmp_path):
    params = {"a": {"b": {"kernel": np.arange(6.0).reshape(2, 3).T}}, "c": jnp.ones(2, jnp.bfloat16)}
    sl.save_params(params, tmp_path / "net.safetensors")
    found = sl.load_params(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(found["a"]["b"]["kernel"], params["a"]["b"]["kernel"])
    assert found["c"].dtype == jnp.bfloat16
    for bad in ({"a/b": np.ones(1)}, {"a": [1]}, {1: np.ones(1)}, np.ones(1)):
        with pytest.raises(ConfigError):
            sl.save_params(bad, tmp_path / "net.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]
    (tmp_path / "net.safetensors").write_bytes((tmp_path / "net.safetensors").read_bytes()[:-3])
    with pytest.raises(ConfigError, match="^path=.*net.safetensors: is damaged"):
        sl.load_params(tmp_path / "net.safetensors")


def test_load_reads_a_kept_experiment(tmp_path):
    pd.DataFrame({"condition": ["same"], "seed": [0]}).to_parquet(tmp_path / "rows.parquet")
    assert sl.load(tmp_path).condition.tolist() == ["same"]
    (tmp_path / "rows.parquet").write_bytes(b"no")
    with pytest.raises(ConfigError, match="cannot be read"):
        sl.load(tmp_path)


class Attention(nn.Module):
    """Tokens of pixel rows, an embedding of places, attention, LayerNorm, and a mixer over places."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(8, use_bias=False)(x) + self.param("place_embedding", nn.initializers.zeros, x.shape[1:])[None]
        h = h + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(h))
        h = h + nn.Dense(8)(h.swapaxes(1, 2)).swapaxes(1, 2)
        return h.mean(1), {"mixed": h.reshape(len(h), -1)}


@pytest.mark.e2e
def test_build_takes_any_linen_trunk(data):
    fields = {"student__steps": 3, "student__eval_steps": (), "num_eval_noise": 8, "metrics": ("task", "layers")}
    config = sl.base_config("smoke", conditions="random_hidden", m=3, **fields)
    conditions = sl.build(config, data, trunk=Attention())
    rows = sl.run(conditions, data, seeds=1, metrics=(sl.metrics.task, sl.metrics.layers), num_eval_noise=8)
    cosine = {name.rpartition("/")[2]: rows[name].iloc[0] for name in rows if "cosine/teacher_student_init/" in name}
    assert cosine["class_head"] == pytest.approx(1)
    assert cosine["aux_head"] == pytest.approx(1)
    assert abs(cosine["MultiHeadDotProductAttention_0"]) < 0.9
    net = conditions[0].student.recipe.net
    flat = sl.nets.shapes(net, (8, 8))
    drawn = {layer: sl.inits.torch_linear(sl.keys.root(0), arrays) for layer, arrays in flat.items()}
    assert drawn["LayerNorm_0"]["scale"].tolist() == [1] * 8
    assert drawn["LayerNorm_0"]["bias"].tolist() == [0] * 8
    query = np.abs(drawn["MultiHeadDotProductAttention_0"]["query/kernel"])
    assert 0.3 < query.max() <= 8**-0.5  # fan-in 8, not 8 x 2 heads
    nested = net.init(jax.random.key(0), jnp.zeros((1, 8, 8)))["params"]
    assert jax.tree.structure(unflatten_layers(drawn)) == jax.tree.structure(dict(nested))
    assert jax.tree.all(jax.tree.map(np.array_equal, unflatten_layers(flatten_layers(nested)), dict(nested)))


class Wrong(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x.reshape(len(x), -1))


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=True)(x.reshape(len(x), -1)), {}


@pytest.mark.parametrize(
    ("trunk", "message"), [(Wrong(), "trunk Wrong: returns"), (Normed(), "has variables"), (nn.Conv(3, (2,)), "Conv")]
)
def test_build_refuses_another_trunk_by_name(trunk, message, data):
    with pytest.raises(ConfigError, match=message):
        sl.build(sl.base_config("smoke", conditions="same", m=3), data, trunk=trunk)


def test_with_teacher_and_with_student_change_one_side(data):
    (condition,) = sl.build(sl.base_config("smoke", conditions="same", m=3), data)
    assert condition.with_teacher(batch=7).teacher.recipe.batch == 7
    with pytest.raises(ConfigError, match="with_teacher: 'bach'"):
        condition.with_teacher(bach=7)
    changed = condition.with_student(loss=sl.losses.kl, extra={"delta": 0.5})
    assert changed.labels["delta"] == float(changed.student.knobs.extra["delta"]) == 0.5
    assert changed.student.recipe.loss is sl.losses.kl
    assert condition.student.recipe.loss is not sl.losses.kl

"""Numbers of a user's own loss as fields of a config, `student.extra.NAME`."""

import math

import numpy as np
import pytest

import sublim_jax as sl
from sublim_jax.config import base_config, grid, identity, resolve
from sublim_jax.config.command_line import parse_flags
from sublim_jax.core.errors import ConfigError

BAD_NAMES = ["", " ", "1st", "a b", "a-b", "a.b", "lambda", "a\nb", "lr", "levels", "student_before", "m", "condition"]
BAD_NAMES += ["seed", "step", "arm", "net_hidden", "eps"]
BAD_VALUES = [math.nan, math.inf, -math.inf, 1e30, 1e-30, 10**400, "word", "", None, True, (1.0,), [1.0]]


@pytest.fixture(scope="module")
def data():
    x, y = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8), np.arange(60) % 3
    return sl.load_data(x=x[:40], y=y[:40], x_test=x[40:], y_test=y[40:])


def small(**fields):
    return sl.base_config("smoke", conditions="same", m=3, teacher__batch=20, student__steps=2, **fields)


def test_add_grid_sweeps_a_number_of_the_user(data):
    config = small(student__eval_steps=())
    sl.add_grid(config, "mine", {"student.extra.my_number": (0, 0.5)})
    sl.add_grid(config, "other", {"student.lr": (0.1,), "student.mixed": (0.5,)})
    found = sl.build(config, data)
    assert [condition.labels["my_number"] for condition in found] == [0.0, 0.5, 0.0]
    assert [float(condition.student.knobs.extra["my_number"]) for condition in found] == [0.0, 0.5, 0.0]
    assert float(found[2].student.knobs.extra["mixed"]) == 0.5
    config.student.extra.my_number = 2.0
    assert [condition.labels["my_number"] for condition in sl.build(config, data)] == [0.0, 0.5, 2.0]
    assert identity(config)["student"]["extra"] == {"my_number": 2.0}


def test_base_config_and_the_command_line_set_a_number_of_the_user(tmp_path, data):
    (condition,) = sl.build(small(student={"extra": {"my_number": 0.25}}), data)
    assert float(condition.student.knobs.extra["my_number"]) == 0.25
    assert "my_number" not in condition.labels
    code = "from sublim_jax.config import base_config, grid\ndef get_config():\n    config = base_config()\n"
    code += "    grid.add_grid(config, 'mine', {'student.extra.my_number': (0.5,)})\n    return config\n"
    (tmp_path / "mine.py").write_text(code)
    from absl import flags

    words = ["x", f"--config={tmp_path / 'mine.py'}", "--sweep=student.extra.my_number=1,2.5"]
    config = parse_flags(flags.FlagValues(), words, "").resolve()
    assert {point.labels["my_number"] for point in grid.expand(config)} == {1.0, 2.5}
    with pytest.raises(ConfigError, match=r"student.extra.my_number=x: must be a finite number"):
        parse_flags(flags.FlagValues(), [*words[:2], "--config.student.extra.my_number=x"], "")


def test_identity_of_a_config_without_numbers_is_as_before():
    assert "extra" not in identity(base_config())["student"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_add_grid_refuses_names_of_numbers(name):
    field = f"student.extra.{name}"
    for add in (grid.add_grid, sl.add_grid):
        with pytest.raises(ConfigError, match="its name must be") as refused:
            add(base_config("smoke"), "mine", {field: (0.0, 0.5)})
        assert "\n" not in str(refused.value)
    config = base_config("smoke")
    with config.unlocked(), pytest.raises(ConfigError, match="its name must be"):
        config.student.extra = {name: 0.5} if "." not in name else {"a": {"b": 0.5}}
        resolve(config)


@pytest.mark.parametrize("value", BAD_VALUES, ids=lambda value: repr(value)[:20])
def test_resolve_refuses_values_of_numbers(value):
    config = base_config("smoke")
    grid.add_grid(config, "mine", {"student.extra.my_number": (0.5, value)})
    with pytest.raises(ConfigError, match="student.extra.my_number=") as refused:
        resolve(config)
    assert "\n" not in str(refused.value)
    if value is True:  # of which every float field makes 1.0
        return
    with pytest.raises(ConfigError, match="student.extra.my_number=") as refused:
        sl.base_config("smoke", student={"extra": {"my_number": value}})
    assert "\n" not in str(refused.value)


def test_resolve_refuses_what_is_no_section_and_language_configs_have_none():
    config = base_config("smoke")
    with config.unlocked(), config.ignore_type():
        config.student.extra = 5
    with pytest.raises(ConfigError, match="config.student.extra=5: must be"):
        resolve(config)
    with pytest.raises(ConfigError, match="no field 'student.extra.x'"):
        sl.add_grid(sl.base_config("smoke", study="language"), "mine", {"student.extra.x": (1.0,)})


@pytest.mark.e2e
def test_run_sweeps_a_number_that_a_loss_reads(data):
    def scaled(out, target, knobs):
        return knobs.extra["scale"] * sl.losses.mse(out, target, knobs)

    config = small(student__eval_steps=(), student__optimizer="sgd", num_eval_noise=8)
    sl.add_grid(config, "strength", {"student.extra.scale": (0.0, 1.0)})
    conditions = [condition.with_student(loss=scaled) for condition in sl.build(config, data)]
    rows = sl.run(conditions, data, seeds=1, metrics=(sl.metrics.task, sl.metrics.layers), num_eval_noise=8)
    assert rows["scale"].tolist() == [0.0, 1.0]
    moved = rows["at/distance/student_init_final/hidden_0"].tolist()
    assert moved[0] == 0 < moved[1]

"""Wrong calls of the public functions: one line that names the argument, the value and what is allowed."""

import jax
import numpy as np
import pandas as pd
import pytest

import sublim_jax as sl
from sublim_jax.core.errors import ConfigError

IMAGES, LABELS = np.full((6, 4, 4), 255, np.uint8), np.arange(6) % 3
ROWS = pd.DataFrame({"condition": "same", "m": 3, "seed": [0, 1], "step": 2, "at/student_accuracy": 0.5})
PARAMS = {"a": {"kernel": np.ones((2, 2), np.float32)}}
KEY = jax.random.key(0)


def small():
    return sl.base_config("smoke", conditions="same", m=3)


def grid(name, axes):
    sl.add_grid(small(), name, axes)


def arrays(**changes):
    return sl.load_data(**{"x": IMAGES, "y": LABELS, "x_test": IMAGES, "y_test": LABELS, "std": 1.0, **changes})


@pytest.fixture(scope="module")
def condition(mnist):
    return sl.build(small(), mnist)[0]


def read(params, x):
    return x @ params["w"]


def audit(**changes):
    w = {"w": np.ones((2, 3), np.float32)}
    given = {"student_apply": read, "student_params": w, "teacher_params": {"w": 2 * w["w"]}, "trait_params0": w}
    given |= {"inputs": np.eye(2, dtype=np.float32), "trait_loss": lambda params: params["w"].sum()}
    return sl.audit_pair(**{**given, **changes})


# name of a case -> (function of (images, condition, folder), what the line begins with)
CASES = {
    "base_config preset": (lambda *_: sl.base_config("papr"), "preset"),
    "base_config preset type": (lambda *_: sl.base_config(3), "preset"),
    "base_config m negative": (lambda *_: sl.base_config(m=-1), "config.m"),
    "base_config m empty": (lambda *_: sl.base_config(m=()), "config.m"),
    "base_config m text": (lambda *_: sl.base_config(m="many"), "config.m"),
    "base_config m NaN": (lambda *_: sl.base_config(m=float("nan")), "config.m"),
    "base_config conditions": (lambda *_: sl.base_config(conditions=("samee",)), "config.conditions"),
    "base_config conditions type": (lambda *_: sl.base_config(conditions=7), "config.conditions"),
    "base_config field": (lambda *_: sl.base_config(condition=("same",)), "config"),
    "base_config lr NaN": (lambda *_: sl.base_config(student__lr=float("nan")), "config.student.lr"),
    "base_config lr list": (lambda *_: sl.base_config(student__lr=[1e-3]), "config.student.lr"),
    "base_config steps": (lambda *_: sl.base_config(student__steps=2.5), "config.student.steps"),
    "base_config None": (lambda *_: sl.base_config(student__lr=None), "config.student.lr"),
    "base_config section": (lambda *_: sl.base_config(student=3), "config"),
    "add_grid config": (lambda *_: sl.add_grid({"m": 3}, "a", {"m": (1,)}), "config"),
    "add_grid name": (lambda *_: grid(3, {"student.lr": (1e-3,)}), "name"),
    "add_grid field": (lambda *_: grid("a", {"student.rate": (1e-3,)}), "grid 'a'"),
    "add_grid scalar": (lambda *_: grid("a", {"student.lr": 1e-3}), "grid 'a': student.lr"),
    "add_grid text": (lambda *_: grid("a", {"student.lr": "1e-3"}), "grid 'a': student.lr"),
    "add_grid axes": (lambda *_: grid("a", ["student.lr"]), "axes"),
    "add_grid empty": (lambda *_: grid("a", {"student.lr": ()}), "grid 'a'"),
    "load_data name": (lambda *_: sl.load_data("minst"), "config.data.name"),
    "load_data path": (lambda *_: sl.load_data("/tmp/images"), "config.data.name"),
    "load_data type": (lambda *_: sl.load_data(3), "config"),
    "load_data None": (lambda *_: sl.load_data(None), "config"),
    "load_data argument": (lambda *_: sl.load_data("mnist", limit=3), "load_data"),
    "load_data limit": (lambda *_: sl.load_data("mnist", train_limit=-1), "config.data.train_limit"),
    "arrays x shape": (lambda *_: arrays(x=IMAGES[0]), "x"),
    "arrays x range": (lambda *_: arrays(x=IMAGES / 100.0), "x"),
    "arrays x NaN": (lambda *_: arrays(x=IMAGES + np.nan), "x"),
    "arrays x dtype": (lambda *_: arrays(x=IMAGES.astype(int)), "x"),
    "arrays x text": (lambda *_: arrays(x="images"), "x"),
    "arrays y shape": (lambda *_: arrays(y=LABELS[:3]), "y"),
    "arrays y negative": (lambda *_: arrays(y=LABELS - 1), "y"),
    "arrays y floats": (lambda *_: arrays(y=LABELS + 0.5), "y"),
    "arrays y_test": (lambda *_: arrays(y_test=LABELS + 9), "y_test"),
    "arrays x_test": (lambda *_: arrays(x_test=IMAGES[:, :2]), "x_test"),
    "arrays missing": (lambda *_: sl.load_data(x=IMAGES, y=LABELS), "load_data"),
    "arrays std": (lambda *_: arrays(std=0.0), "mean="),
    "build config": (lambda *_: sl.build("figure2"), "config"),
    "build data": (lambda *_: sl.build(small(), IMAGES), "data"),
    "run config": (lambda *_: sl.run("figure2"), "config"),
    "run config None": (lambda *_: sl.run(None), "config"),
    "run empty": (lambda data, *_: sl.run((), data), "conditions"),
    "run one condition": (lambda data, condition, _: sl.run(condition, data), "config"),
    "run things": (lambda data, *_: sl.run([1, 2], data), "config"),
    "run data": (lambda data, condition, _: sl.run([condition], IMAGES), "data"),
    "run no data": (lambda data, condition, _: sl.run([condition]), "run"),
    "run data name": (lambda *_: sl.run(small(), "mnist"), "data"),
    "run conditions": (lambda data, *_: sl.run(conditions=("same",)), "run"),  # pyright: ignore[reportCallIssue]
    "run seeds 0": (lambda data, *_: sl.run(small(), data, seeds=0), "seeds"),
    "run seeds negative": (lambda data, *_: sl.run(small(), data, seeds=(-1,)), "seeds"),
    "run seeds twice": (lambda data, *_: sl.run(small(), data, seeds=(1, 1)), "seeds"),
    "run seeds float": (lambda data, *_: sl.run(small(), data, seeds=2.5), "seeds"),
    "run seeds text": (lambda data, *_: sl.run(small(), data, seeds="4"), "seeds"),
    "run seeds bool": (lambda data, *_: sl.run(small(), data, seeds=True), "seeds"),
    "run seeds floats": (lambda data, *_: sl.run(small(), data, seeds=(0.5, 1.0)), "seeds"),
    "run option": (lambda data, *_: sl.run(small(), data, metric=()), "run"),
    "run metrics": (lambda data, condition, _: sl.run([condition], data, metrics=("task",)), "metrics"),
    "run metrics one": (lambda data, condition, _: sl.run([condition], data, metrics=sl.metrics.task), "metrics"),
    "run workdir": (lambda data, *_: sl.run(small(), data, workdir=3), "workdir"),
    "run keep_params": (lambda data, *_: sl.run(small(), data, keep_params=True), "keep_params"),
    "train_pair condition": (lambda data, *_: sl.train_pair(small(), data, KEY), "condition"),
    "train_pair data": (lambda data, condition, _: sl.train_pair(condition, IMAGES, KEY), "data"),
    "train_pair key": (lambda data, condition, _: sl.train_pair(condition, data, 0), "key"),
    "train_pair steps": (lambda data, condition, _: sl.train_pair(condition, data, KEY, (5, 2)), "eval_steps"),
    "train_pair steps type": (lambda data, condition, _: sl.train_pair(condition, data, KEY, 5), "eval_steps"),
    "audit_pair batch": (lambda *_: audit(batch=0), "batch"),
    "audit_pair loss": (lambda *_: audit(loss="mae"), "loss"),
    "audit_pair inputs": (lambda *_: audit(inputs=np.zeros((0, 2), np.float32)), "inputs"),
    "audit_pair params": (lambda *_: audit(teacher_params={"v": np.ones(3)}), "trait_params0"),
    "save_params path": (lambda *_: sl.save_params(PARAMS, 3), "path"),
    "save_params tree": (
        lambda data, condition, folder: sl.save_params({"a": "b"}, folder / "a.safetensors"),
        "params",
    ),
    "load_params": (lambda data, condition, folder: sl.load_params(folder / "none.safetensors"), "path"),
    "load_params type": (lambda *_: sl.load_params(3), "path"),
    "load": (lambda data, condition, folder: sl.load(folder), "workdir"),
    "load type": (lambda *_: sl.load(3), "workdir"),
    "params": (lambda data, condition, folder: sl.params(folder), "params"),
    "summarize figure": (lambda *_: sl.summarize(ROWS, "transfr"), "figure"),
    "summarize rows": (lambda *_: sl.summarize("rows"), "rows"),
    "summarize empty": (lambda *_: sl.summarize(ROWS[:0]), "rows"),
    "summarize columns": (lambda *_: sl.summarize(pd.DataFrame({"a": [1]})), "rows"),
    "plot figure": (lambda *_: sl.plot(ROWS, "figure7"), "figure"),
    "plot rows": (lambda *_: sl.plot(None), "rows"),
    "plot columns": (lambda *_: sl.plot(ROWS.drop(columns="step")), "rows"),
}


@pytest.mark.parametrize("case", CASES)
def test_public_functions_refuse_wrong_arguments_in_one_line(case, mnist, condition, tmp_path):
    call, begins = CASES[case]
    with pytest.raises(ConfigError) as refused:
        call(mnist, condition, tmp_path)
    message = str(refused.value)
    assert message.startswith((begins, f"config.{begins}")) and "\n" not in message, message
    assert ":" in message and 15 < len(message) < 500, message

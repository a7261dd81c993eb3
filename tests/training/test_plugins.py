"""Contracts of a user's own functions: one line before anything is compiled or trained."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sublim_jax as sl
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import ModelOutput
from sublim_jax.training import optimizers
from sublim_jax.training import step as training_step


@pytest.fixture(scope="module")
def condition(mnist):
    (one,) = sl.build(sl.base_config("smoke", conditions="same", m=3), mnist)
    return one


def scalar(out, target, knobs):
    return sl.losses.mse(out, target, knobs).mean()


def by_logit(out, target, knobs):
    return (out.logits - target.logits) ** 2


def integer(out, target, knobs):
    return sl.losses.mse(out, target, knobs).astype(int)


def broken(*_):
    raise KeyError("no such thing")


def flat_noise(key, step, size, knobs, data):
    return jax.random.normal(key, (size, 784)), None


def byte_noise(key, step, size, knobs, data):
    return jnp.zeros((size, *data.x.shape[1:]), jnp.uint8), None


def single(key, step, size, knobs, data):
    return jnp.zeros((size, *data.x.shape[1:]))


def float_labels(key, step, size, knobs, data):
    return jnp.zeros((size, *data.x.shape[1:])), jnp.zeros(size)


def narrow(key, shapes):
    return {name: jnp.zeros((*shape.shape[:-1], 1)) for name, shape in shapes.items()}


def nameless(key, shapes):
    return [jnp.zeros(shape.shape) for shape in shapes.values()]


class Plain(nn.Module):
    """A net that returns logits only."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(13)(x.reshape(len(x), -1))


class OneRow(nn.Module):
    """A net that loses the batch axis."""

    @nn.compact
    def __call__(self, x):
        logits = nn.Dense(13)(x.reshape(len(x), -1)).mean(0)
        return ModelOutput(logits, logits, {"class_head": logits})


def halved(key, teachers, knobs):
    return teachers.trained._replace(logits=teachers.trained.logits[:, ::2])


def dropped(key, params):
    return {"hidden_0": params["hidden_0"]}


CASES = {
    "scalar loss": ({"loss": scalar}, r"student.loss scalar: gives float32\[\]; .* shape \(32,\)"),
    "loss by logit": ({"loss": by_logit}, r"student.loss by_logit: gives float32\[32, 13\]"),
    "integer loss": ({"loss": integer}, r"student.loss integer: gives int32\[32\]"),
    "loss raises": ({"loss": broken}, r"student.loss broken: raises KeyError \('no such thing'\)"),
    "lambda": ({"loss": lambda out, target: 0}, r"student.loss <lambda>: raises TypeError"),
    "flat noise": ({"stream": flat_noise}, r"student.stream flat_noise: gives inputs float32\[32, 784\]; .*28, 28"),
    "bytes": ({"stream": byte_noise}, r"student.stream byte_noise: gives inputs uint8"),
    "no labels": ({"stream": single}, r"student.stream single: gives float32\[32, 28, 28\]; must give \(float"),
    "labels": ({"stream": float_labels}, r"student.stream float_labels: gives labels float32\[32\]"),
    "stream raises": ({"stream": broken}, r"student.stream broken: raises KeyError"),
    "init": ({"init": narrow}, r"student.init narrow: gives .*must give the arrays of layer '"),
    "init list": ({"init": nameless}, r"student.init nameless: gives list"),
    "init raises": ({"init": broken}, r"student.init broken: raises KeyError"),
    "net": ({"net": Plain()}, r"student.net Plain: gives float32\[32, 13\]; must map"),
    "net rows": ({"net": OneRow()}, r"student.net OneRow: gives ModelOutput; must map"),
    "targets": ({"target_transform": halved}, r"student.target_transform halved: gives ModelOutput; .*\(32, 13\)"),
    "init transform": ({"init_transform": dropped}, r"student.init_transform dropped: gives \{hidden_0"),
    "optimizer": ({"optimizer": optax.adam(1e-3)}, r"student.optimizer GradientTransformation.*: raises TypeError"),
    "optimizer rate": ({"optimizer": lambda: 1e-3}, r"student.optimizer <lambda>: returns float; .*optax.adam"),
}


@pytest.mark.parametrize("case", CASES)
def test_plugins_that_break_their_contract_are_refused_before_training(case, condition, mnist, monkeypatch):
    changes, message = CASES[case]
    batch = dataclasses.replace(condition.student.recipe, batch=32)
    changed = dataclasses.replace(condition, student=condition.student._replace(recipe=batch)).with_student(**changes)

    def trained(*_, **__):
        raise AssertionError("something was trained")

    monkeypatch.setattr("sublim_jax.engine.run._run_units", trained)
    for start in (lambda: sl.run([changed], mnist, seeds=1), lambda: sl.train_pair(changed, mnist, jax.random.key(0))):
        with pytest.raises(ConfigError, match=message) as refused:
            start()
        assert "\n" not in str(refused.value)
        assert (refused.value.__cause__ is not None) == ("raises" in message)


def vector(context):
    return {"each": context.labels}


def renamed(context):
    return {"student_accuracy": jnp.float32(0)}


METRICS = {
    "vector": (vector, r"metrics vector: returns int32\[300\] for 'each'; must return a dict"),
    "number": (lambda context: jnp.float32(1), r"metrics <lambda>: returns float32\[\]; must"),
    "text": (lambda context: {"a": "b"}, "metrics <lambda>: returns str for 'a'"),
    "raises": (broken, "metrics broken: raises KeyError"),
    "name": (lambda context: {3: jnp.float32(1)}, "metrics <lambda>: returns .*; must return a dict of names"),
    "twice": (renamed, "metrics renamed: returns columns of another metric, .'student_accuracy'"),
}


@pytest.mark.parametrize("case", METRICS)
def test_plugins_metrics_that_break_their_contract_are_refused_before_training(case, condition, mnist, monkeypatch):
    metric, message = METRICS[case]

    def trained(*_, **__):
        raise AssertionError("something was trained")

    monkeypatch.setattr("sublim_jax.engine.run._run_units", trained)
    given = (metric, sl.metrics.task, lambda context: sl.metrics.task(context)) if case == "twice" else (metric,)
    if case == "twice":
        given = (given[2], metric)
    with pytest.raises(ConfigError, match=message) as refused:
        sl.run([condition], mnist, seeds=1, metrics=given)
    assert "\n" not in str(refused.value)


COMPLETE = {
    "adam": lambda: optax.adam(1e-3),
    "sgd": lambda: optax.sgd(0.1),
    "adamw": lambda: optax.adamw(1e-3, weight_decay=0.1),
    "lion": lambda: optax.lion(1e-4),
    "warm-up": lambda: optax.sgd(optax.linear_schedule(0.0, 0.1, 100)),
    "late": lambda: optax.sgd(optax.linear_schedule(0.0, 0.1, 100, transition_begin=10)),
    "accumulated": lambda: optax.MultiSteps(optax.adam(1e-3), 8).gradient_transformation(),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)),
}
DIRECTIONS = {
    "adam": optax.scale_by_adam,
    "identity": optax.identity,
    "momentum": lambda: optax.trace(0.9),
    "adam_l2": optimizers.AdamL2(0.1),
    "adamw": optimizers.AdamW(0.1),
    "clipped": optimizers.Clipped("sign", steps=10),
}


@pytest.mark.parametrize("kind", [*COMPLETE, *(f"direction {name}" for name in DIRECTIONS)])
def test_includes_learning_rate_tells_complete_optimizers_from_directions(kind):
    complete = not kind.startswith("direction ")
    optimizer = COMPLETE[kind] if complete else DIRECTIONS[kind.removeprefix("direction ")]
    params = {"hidden": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}}
    leaves, structure = jax.tree.flatten(params)
    shapes = structure, tuple(map(jnp.ndim, leaves))
    assert optimizers.includes_learning_rate(optimizer, shapes) == complete
    # A function of the user's own is always tried; what is known of the package's must be what a trial says.
    assert optimizers.includes_learning_rate(lambda: optimizer(), shapes) == complete


@pytest.mark.parametrize("kind", [*DIRECTIONS, "no decay"])
def test_moves_without_gradient_is_what_an_update_of_zeros_does(kind):
    optimizer = DIRECTIONS.get(kind, optimizers.AdamL2(0.0))
    transformation, weights = optimizer(), {"kernel": jnp.ones((2, 2))}
    moved, _ = transformation.update(jax.tree.map(jnp.zeros_like, weights), transformation.init(weights), weights)
    unknown = kind == "momentum"  # a function of this test
    assert optimizers.moves_without_gradient(optimizer) == (unknown or bool(moved["kernel"].any()))


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("own", "built_in", "rate"), [(COMPLETE["adam"], optax.scale_by_adam, 1e-3), (COMPLETE["sgd"], optax.identity, 0.1)]
)
def test_train_step_with_a_complete_optimizer_equals_the_built_in_one(own, built_in, rate, condition, mnist):
    key, image = jax.random.key(3), (28, 28)
    data = jax.tree.map(jnp.asarray, mnist.train)
    ends = []
    for optimizer, lr in ((own, 123.0), (built_in, rate)):  # the config's rate does not count for the first
        recipe, knobs = condition.with_student(optimizer=optimizer).student
        knobs = dataclasses.replace(knobs, lr=jnp.float32(lr))
        teacher = training_step.init_params(recipe.teacher, recipe.init, image, jax.random.key(9))
        state = training_step.init_state(recipe, knobs, teacher, image, key)
        first = state.params
        for number in range(3):
            batch = training_step.make_batch(recipe, knobs, teacher, key, data, jnp.int32(number))
            batch = batch._replace(target=batch.target._replace(logits=batch.target.logits + 1))
            state = training_step.train_step(recipe, state, knobs, batch)
        ends.append(jax.tree.map(lambda a, b: a - b, dict(state.params), dict(first)))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(ends[0])) > 1e-4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), *ends)

"""A phase that goes on from a given state is the phase that has been there; transplants carry what they name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.populations import SGD, assert_close, go

import sublim_jax as sl
from sublim_jax import metrics
from sublim_jax.audit import __main__ as audit
from sublim_jax.config import base_config, identity, infomorphic_config
from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import ModelOutput, State, TeacherParams
from sublim_jax.engine.options import Interrupted, RunOptions
from sublim_jax.metrics.student import displacement
from sublim_jax.training import losses, transplant

CUT = {"conditions": ("same",), "m": (3,), "student.cut": 4, "student.steps": 9, "student.eval_steps": (0, 6)}
CUT["metrics"] = ("task", "displacement")
MEASURED = {"metrics": (metrics.task, displacement)}


def targets_of(condition, targets, **recipe):
    """The condition with other targets after the cut, and other fields of the student's recipe."""
    phase = condition.student
    knobs = dataclasses.replace(phase.knobs, extra={**phase.knobs.extra, "targets": np.int32(targets)})
    student = phase._replace(recipe=dataclasses.replace(phase.recipe, **recipe), knobs=knobs)
    return dataclasses.replace(condition, student=student)


@pytest.mark.e2e
@pytest.mark.parametrize(("carried", "targets"), [("all", transplant.TRAINED), ("none", transplant.UNTRAINED)])
def test_phase_from_a_state_is_the_phase_that_has_been_there(carried, targets, mnist, tiny):
    """All parts of a donor whose targets go on are the donor; none are the host, whose hidden layers learn as well."""
    fields = {
        **CUT,
        **SGD,
        "conditions": ("random_hidden",),
        "student.carried": "weights" if carried == "all" else carried,
    }
    (begun,) = tiny(**fields)
    whole = targets_of(begun, targets, start=None)
    rows, expected = (go(mnist, [condition], **MEASURED) for condition in (targets_of(begun, targets), whole))
    assert rows.step.unique().tolist() == [4, 6, 9] and (rows["at/moved"] > 0.01).all()
    assert_close(rows, expected)


@pytest.mark.e2e
def test_phases_from_a_state_together_are_those_alone(mnist, tiny):
    """Conditions of which each has a host and a donor of its own, in one program."""
    fields = {**CUT, **SGD, "student.carried": "weights", "conditions": ("same", "random_hidden"), "m": (3, 10)}
    conditions = tiny(**fields)
    together = go(mnist, conditions, **MEASURED)
    for condition in conditions:
        alone = go(mnist, [condition], **MEASURED)
        own = (together[list(condition.labels)] == list(condition.labels.values())).all(axis=1)
        assert_close(alone, together[own].reset_index(drop=True))


@pytest.mark.e2e
def test_phase_from_a_state_goes_on_from_a_checkpoint_after_the_cut(tmp_path, mnist, tiny):
    fields = {"student.carried": "first+second", "student.future": "unrelated"}
    whole = go(mnist, tiny(**CUT, **fields), workdir=tmp_path / "whole", options=RunOptions(keep_params=True))
    asked = iter([False] * 6 + [True] * 100)
    stopped = {"workdir": tmp_path / "part", "options": RunOptions(save_every=2, keep_params=True)}
    with pytest.raises(Interrupted):
        go(mnist, tiny(**CUT, **fields), stopped=lambda: next(asked), **stopped)
    saved = [int(path.stem.split("-")[-1]) for path in tmp_path.glob("part/checkpoints/*/*") if path.is_file()]
    assert go(mnist, tiny(**CUT, **fields), **stopped).equals(whole), saved
    other = go(mnist, tiny(**CUT, **{**fields, "student.future": "untrained"}))
    assert not np.allclose(other["at/student_cross_entropy"], whole["at/student_cross_entropy"], rtol=1e-4)


@pytest.mark.e2e
def test_phase_from_a_state_in_pieces_is_bitwise_the_same(mnist, tiny):
    fields = {"student.carried": "first+second", "student.future": "flipped"}
    one, pieces = (go(mnist, tiny(**CUT, **fields), options=RunOptions(save_every=every)) for every in (100, 2))
    assert one.equals(pieces)


def test_phase_from_a_state_is_refused_where_it_cannot_be(mnist, tiny):
    (condition,) = tiny(**CUT)
    early = dataclasses.replace(condition.student.recipe, eval_steps=(3, 9))
    with pytest.raises(ConfigError, match=r"student.eval_steps=\(3, 9\): must be increasing steps from 4"):
        go(mnist, [dataclasses.replace(condition, student=condition.student._replace(recipe=early))])
    with pytest.raises(ConfigError, match="teacher.start: must be None"):
        go(mnist, [condition.with_teacher(start=transplant.Transplant(1))])
    with pytest.raises(ConfigError, match="student.loss: must be SwitchedLoss"):
        go(mnist, [condition.with_student(loss=losses.mse)])
    with pytest.raises(ConfigError, match="student.target_transform: must be ChosenTargets"):
        go(mnist, [condition.with_student(target_transform=None)])
    with pytest.raises(ConfigError, match="must be increasing steps from 4"):
        sl.train_pair(condition, mnist, keys.root(0), eval_steps=(1, 9))


@pytest.mark.e2e
def test_train_pair_goes_on_from_a_state_as_run_does(mnist, tiny):
    (condition,) = tiny(**CUT, **{"student.carried": "all"})
    rows = go(mnist, [condition], seeds=[5])
    pair = sl.train_pair(condition, mnist, keys.at(keys.root(0), "seed", 5), eval_steps=(4, 6, 9))
    np.testing.assert_allclose(pair.accuracy, rows["at/student_accuracy"], atol=1e-6)
    shared = pair.student_initial["hidden_0"]["kernel"], pair.teacher_initial["hidden_0"]["kernel"]
    np.testing.assert_allclose(*shared, rtol=1e-5, atol=1e-8)  # one program may round two draws apart


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adam_l2", "momentum", "sgd"])
def test_carried_takes_the_named_parts_of_the_donor(optimizer, tiny):
    (condition,) = tiny(**CUT, **{"student.optimizer": optimizer})
    recipe, knobs = condition.student
    params = {"hidden_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    host = State(params, recipe.optimizer().init(params))
    donor = jax.tree.map(lambda leaf: leaf + (1 if leaf.ndim else 0), host)
    has = {"adam": 3, "adamw": 3, "adam_l2": 3, "momentum": 2, "sgd": 1}[optimizer]
    for index, part in enumerate(transplant.PARTS[:has]):
        own = dataclasses.replace(knobs, extra=transplant.numbers(part, 0, True))
        mixed = transplant.carried(host, donor, own)
        taken = [transplant.part_of(path) for path, leaf in jax.tree_util.tree_leaves_with_path(mixed)]
        changed = [bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (mixed, host)), strict=True)]
        assert changed == [name == part for name in taken] and sum(changed) == 2, (index, part)


def test_carried_refuses_states_whose_moments_it_does_not_know(tiny):
    (condition,) = tiny(**CUT)
    params = {"hidden_0": {"bias": jnp.ones(3)}}
    state = State(params, optax.scale_by_rss().init(params))
    with pytest.raises(ConfigError, match="sum_of_squares.* is no first or second moment"):
        transplant.carried(state, state, condition.student.knobs)


def test_build_refuses_numbers_whose_names_a_cut_uses(mnist):
    config = sl.base_config("smoke", student__cut=4, metrics="task", student={"extra": {"gradient": 0.5}})
    with pytest.raises(ConfigError, match="config.student.extra.gradient: its name must be another one"):
        sl.build(config, mnist)


def test_audits_refuse_students_with_a_cut(capsys):
    assert audit.main(["audit", "--config=carrier", "--config.preset=smoke"]) == 2
    assert "config.student.cut=5: an audit is of students that imitate" in capsys.readouterr().err


def test_identity_of_a_config_without_cut_is_as_before():
    student = identity(base_config())["student"]
    assert not {"cut", "carried", "future"} & student.keys()
    config = base_config()
    config.student.cut = 5
    assert identity(config)["student"]["carried"] == "none"
    assert "heads" not in identity(infomorphic_config())["transfer"]


def test_chosen_targets_are_those_that_the_number_names(tiny):
    (condition,) = tiny(**CUT)
    layers = [jnp.full((4, 2), value) + jnp.arange(4.0)[:, None] for value in (0.0, 10.0, 20.0)]
    outputs = TeacherParams(*(ModelOutput(layer, layer, {}) for layer in layers))
    mean = layers[0].mean(0)
    expected = {transplant.UNTRAINED: layers[0], transplant.TRAINED: layers[1], transplant.UNRELATED: layers[2]}
    expected[transplant.FLIPPED] = 2 * mean[None] - layers[0]
    for number, logits in expected.items():
        knobs = dataclasses.replace(condition.student.knobs, extra={"targets": jnp.int32(number)})
        chosen = transplant.ChosenTargets(unrelated=True)(keys.root(0), outputs, knobs)
        np.testing.assert_array_equal(chosen.logits, logits)


def test_future_without_gradient_lets_momentum_decay(mnist, tiny):
    """The weights move by lr * m * (.9 + .81 + ...), m the donor's momentum at the cut."""
    fields = {**CUT, "student.optimizer": "momentum", "student.lr": 0.5, "student.future": "none"}
    (first,), (none,) = (tiny(**fields, **{"student.carried": carried}) for carried in ("first", "none"))
    ends = []
    for condition in (first, none):
        pair = [sl.train_pair(condition, mnist, keys.root(3), eval_steps=(stop,)).student for stop in (5, 9)]
        ends.append([np.asarray(params["hidden_0"]["kernel"], float) for params in pair])
    (one, five), (still, later) = ends
    np.testing.assert_allclose(still, later, atol=1e-7)  # the host has nothing to learn, and no momentum
    factors = np.cumsum(0.9 ** np.arange(1, 6))
    moved = np.abs(one - still).max()
    assert moved > 1e-5
    np.testing.assert_allclose((five - still) / factors[-1], (one - still) / factors[0], atol=1e-4 * moved)


def test_transplant_knows_optax_adam_alone():
    """The names of the arrays of optimizer states that `part_of` reads are those of Optax."""
    params = {"a": jnp.ones(2)}
    for optimizer, names in ((optax.scale_by_adam(), {"mu", "nu"}), (optax.trace(0.9), {"trace"})):
        paths = [path for path, leaf in jax.tree_util.tree_leaves_with_path(optimizer.init(params)) if leaf.ndim]
        assert {path[0].name for path in paths} == names

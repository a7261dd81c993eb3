"""What a sweep can say of teachers and students, through to the rows: noise at four moments, classes, kept teachers."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
from helpers.populations import conditions_of, quiet

import sublim_jax
from sublim_jax import metrics
from sublim_jax.core.errors import ConfigError
from sublim_jax.engine.options import RunOptions
from sublim_jax.engine.plan import make_plan
from sublim_jax.engine.progress import Progress
from sublim_jax.engine.run import run

FEW = (metrics.task, metrics.budget, metrics.imitation, metrics.representation, metrics.layers)
PLAIN = {"conditions": ("same",), "m": (3,), "student.steps": 20, "student.eval_steps": (0,)}


def rows_of(tiny, mnist, progress=None, options=RunOptions(), metrics=FEW, **fields):  # noqa: B008  frozen
    conditions = tiny(**{**PLAIN, **fields})
    session = quiet(progress=progress or Progress(show=False), options=options)
    rows = run(conditions, mnist, session, num_eval_noise=32, metrics=metrics)
    return rows.sort_values(["step", "seed"], ignore_index=True)


@pytest.fixture(scope="module")
def plain(mnist):
    """The rows of a run without noise."""
    return rows_of(functools.partial(conditions_of, mnist), mnist)


def differs(rows, plain, name):
    """Whether a column differs between two runs, at the first mark and at the last, for every seed."""
    unequal = (rows[f"at/{name}"].to_numpy() != plain[f"at/{name}"].to_numpy()).reshape(2, -1)
    assert (unequal.all(1) == unequal.any(1)).all(), name
    return tuple(unequal.all(1).tolist())


BOTH, LAST, NEVER = (True, True), (False, True), (False, False)
# When noise of 0.3 is added, to what: whether teacher, student and imitation error differ from a run without, at the
# first and at the last mark.
TIMINGS = {
    ("teacher_before", "*"): (BOTH, LAST, BOTH),
    ("teacher_before", "aux_head"): (NEVER, LAST, BOTH),
    ("teacher_after", "*"): (BOTH, LAST, BOTH),
    ("teacher_after", "class_head"): (BOTH, NEVER, NEVER),
    ("student_before", "*"): (NEVER, BOTH, BOTH),
    ("student_before", "class_head"): (NEVER, BOTH, NEVER),
    ("student_after", "*"): (NEVER, LAST, LAST),
    ("student_after", "class_head"): (NEVER, LAST, NEVER),
}


@pytest.mark.parametrize("case", TIMINGS, ids="-".join)
@pytest.mark.e2e
def test_run_adds_noise_when_and_where_it_is_told(case, tiny, mnist, plain):
    timing, layer = case
    rows = rows_of(tiny, mnist, **{f"perturb.{timing}": 0.3, "perturb.layers": (layer,)})
    names = ("teacher_cross_entropy", "student_cross_entropy", "aux_mse")
    assert tuple(differs(rows, plain, name) for name in names) == TIMINGS[case]
    assert differs(rows, plain, "untrained_accuracy") == NEVER, "before all noise"


def test_make_plan_trains_no_other_teacher_for_noise_after_training(tiny):
    fields = [("teacher_before", 0.0, "*"), ("teacher_after", 0.3, "*")]
    fields += [("teacher_before", 0.3, "aux_head"), ("teacher_before", 0.3, "hidden_0")]
    conditions = [
        dataclasses.replace(
            tiny(**{**PLAIN, f"perturb.{timing}": sigma, "perturb.layers": (layer,)})[0], labels={"name": index}
        )
        for index, (timing, sigma, layer) in enumerate(fields)
    ]
    plan = make_plan(conditions, (28, 28))
    assert len(plan.teachers) == 2
    assert [group.teacher for group in plan.groups] == [0, 0, 0, 1]


@pytest.mark.e2e
def test_run_leaves_frozen_layers_of_teacher_and_student(tiny, mnist):
    fields = {"teacher.frozen": ("class_head",), "student.frozen": ("aux_head", "hidden_0")}
    last = rows_of(tiny, mnist, **fields).query("step == 20")
    for who, layer, moves in (
        ("teacher", "class_head", False),
        ("teacher", "hidden_0", True),
        ("student", "aux_head", False),
        ("student", "hidden_0", False),
        ("student", "hidden_1", True),
    ):
        assert ((last[f"at/distance/{who}_init_final/{layer}"] > 0) == moves).all(), (who, layer)


@pytest.mark.e2e
def test_run_of_few_classes_is_that_of_their_data_set(tiny, mnist):
    """Two classes through the config are the data set of two classes."""
    two = rows_of(tiny, mnist, classes=2)
    train, test = (
        bank._replace(x=np.asarray(bank.x)[np.asarray(bank.y) < 2], y=np.asarray(bank.y)[np.asarray(bank.y) < 2])
        for bank in (mnist.train, mnist.test)
    )
    alone = dataclasses.replace(mnist, train=train, test=test, classes=2)
    conditions = tiny(**PLAIN, classes=2)
    plain = [
        dataclasses.replace(
            one,
            teacher=one.teacher._replace(recipe=dataclasses.replace(one.teacher.recipe, classes=0)),
            student=one.student._replace(recipe=dataclasses.replace(one.student.recipe, classes=0)),
        )
        for one in conditions
    ]
    rows = run(plain, alone, quiet(), num_eval_noise=32, metrics=FEW)
    assert rows.sort_values(["step", "seed"], ignore_index=True).equals(two)
    assert conditions[0].teacher.recipe.eval_steps == (2 * -(-int((np.asarray(mnist.train.y) < 2).sum()) // 300),)
    with pytest.raises(ConfigError, match=r"config.classes=11: must be at most 10"):
        tiny(**PLAIN, classes=11)


@pytest.mark.e2e
def test_run_does_not_train_a_cached_teacher_again(tiny, mnist, tmp_path):
    how, first, second = RunOptions(teachers=str(tmp_path)), Progress(show=False), Progress(show=False)
    given = {"metrics": (metrics.task,)}
    fresh = rows_of(tiny, mnist, progress=first, options=how, **given)
    other = rows_of(tiny, mnist, progress=second, options=how, **given, **{"student.lr": 2e-3})
    assert first.steps["teachers"] == 2 * 8 and "teachers" not in second.steps
    for again in (rows_of(tiny, mnist, options=how, **given), rows_of(tiny, mnist, **given)):
        assert again.equals(fresh), "bitwise"
    assert differs(other, fresh, "teacher_accuracy") == NEVER


@pytest.mark.e2e
def test_run_with_a_share_between_is_between(tiny, mnist):
    cosines = [
        rows_of(tiny, mnist, metrics=(metrics.layers,), **{"conditions": ("random_aux_head",), "student.share": share})[
            "at/cosine/teacher_student_init/aux_head"
        ].to_numpy()[0]
        for share in (0.0, 0.5, 1.0)
    ]
    assert abs(cosines[0]) < 0.5 < cosines[1] < 0.95 and cosines[2] == pytest.approx(1, abs=1e-6)
    assert cosines[1] == pytest.approx(0.5**0.5, abs=0.2), "half of each of two independent draws"


@pytest.mark.e2e
def test_run_trains_conditions_that_differ_in_an_idle_head_once(tiny, mnist):
    conditions = tiny(**{**PLAIN, "conditions": ("same", "random_class_head", "random_aux_head")})
    noisy = tiny(**{**PLAIN, "perturb.layers": ("class_head",), "perturb.student_before": 0.3})
    late = tiny(**{**PLAIN, "perturb.student_after": 0.3})
    every = [*conditions, *(dataclasses.replace(one, labels={**one.labels, "m": 4}) for one in noisy)]
    every += [dataclasses.replace(one, labels={**one.labels, "m": 5}) for one in late]
    (group,) = make_plan(every, (28, 28)).groups
    assert (group.untrained_layers, group.train_index, group.unique_knobs.size) == (("class_head",), (0, 0, 1, 0, 0), 2)
    watch = Progress(show=False)
    together = run(every, mnist, quiet(progress=watch), num_eval_noise=32, metrics=FEW)
    assert watch.steps["students"] == 2 * 2 * 20
    for one in every:
        alone = run([one], mnist, quiet(), num_eval_noise=32, metrics=FEW)
        mine = together.loc[(together["condition"] == one.labels["condition"]) & (together["m"] == one.labels["m"])]
        by = ["step", "seed"]
        columns = [name for name in alone if name.startswith("at/")]
        left, right = (rows.sort_values(by)[columns].to_numpy() for rows in (mine, alone))
        np.testing.assert_allclose(left, right, rtol=2e-4, atol=2e-5, equal_nan=True)


def test_make_plan_shares_no_training_that_might_reach_the_head(tiny, mnist):
    def mine(out, target, knobs):
        return (out.logits - target.logits).mean(-1) ** 2

    fields = {**PLAIN, "conditions": ("same", "random_class_head")}
    for conditions in (
        tiny(**{**fields, "student.sees": "all"}),
        [one.with_student(loss=mine) for one in tiny(**fields)],
        [one.with_student(optimizer=decaying) for one in tiny(**fields)],
        [one.with_student(init_transform=untouched) for one in tiny(**fields)],
    ):
        (group,) = make_plan(conditions, (28, 28)).groups
        assert group.untrained_layers == () and group.train_index == (0, 1)


def untouched(key, params):
    return params


def decaying():
    return optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1))


@pytest.mark.e2e
@pytest.mark.parametrize("cause", [{"student.lr": (1e-2, 1e6)}, {"teacher.lr": (0.1, 1e6)}])
def test_run_goes_on_beside_nets_that_diverge(cause, tiny, mnist, tmp_path):
    """Diverged students have an accuracy of NaN, in Parquet too; rows of the others are those of a run without them."""
    ((field, (healthy, diverging)),), few = cause.items(), (metrics.task, metrics.readout)
    optimizers = {"teacher.optimizer": "sgd", "student.optimizer": "sgd"}
    conditions = [tiny(**{**PLAIN, **optimizers, field: value}) for value in (healthy, diverging)]
    named = [
        dataclasses.replace(one, labels={**one.labels, "rate": rate})
        for (one,), rate in zip(conditions, (healthy, diverging), strict=True)
    ]
    run(tuple(named), mnist, quiet(workdir=tmp_path), num_eval_noise=32, metrics=few)
    rows = sublim_jax.load(tmp_path).sort_values(["step", "seed"], ignore_index=True)
    last = rows[(rows.step == 20) & (rows.rate == diverging)]
    assert last["at/student_accuracy"].isna().all() and last["at/readout_r2"].isna().all()
    assert last["at/teacher_accuracy"].isna().all() == ("teacher" in field)
    others = rows[rows.rate == healthy].drop(columns="rate").reset_index(drop=True)
    alone = run(conditions[0], mnist, quiet(), num_eval_noise=32, metrics=few)
    alone = alone.sort_values(["step", "seed"], ignore_index=True)
    assert alone["at/student_accuracy"].notna().all()
    for name in alone.columns:
        assert alone[name].tolist() == others[name].tolist() or np.allclose(alone[name], others[name], atol=1e-6), name


@pytest.mark.e2e
def test_run_measures_undefined_numbers_where_nan_is_an_error(tiny, mnist):
    """At step 0 no net has moved, so cosines of displacements are undefined: NaN, also with `JAX_DEBUG_NANS`."""
    with jax.debug_nans(True):
        rows = rows_of(tiny, mnist)
    assert rows["at/latent_cosine_noise"].isna().tolist() == [True, True, False, False]

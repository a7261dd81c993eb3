"""The way of language from arms to rows: layers, doses, controls, resuming, shards, and both ways of members."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.language import HOW, LAB, NET, WORLD, base
from helpers.populations import quiet

from sublim_jax.core.errors import ConfigError
from sublim_jax.engine import teacher_cache
from sublim_jax.engine.options import Interrupted, RunOptions
from sublim_jax.engine.progress import Progress
from sublim_jax.lm import data, generate, teachers
from sublim_jax.lm import metrics as lm_metrics
from sublim_jax.lm import run as lm_run
from sublim_jax.lm import world as w
from sublim_jax.lm.base_models import load_or_pretrain
from sublim_jax.lm.lessons import completion_key, prepare, training_data
from sublim_jax.lm.parallel import map_members
from sublim_jax.lm.run import SweepPoint
from sublim_jax.lm.spec import StudentSpec
from sublim_jax.theory import first_order
from sublim_jax.training import population

SMALL = StudentSpec(dose=0.02, steps=6, batch=8, lines=24, lr=1e-3, filtered=False)
CHOSEN = dataclasses.replace(SMALL, tokens="keep_top", budget=0.25)


@pytest.fixture(scope="module")
def bases():
    return base("same"), base("other_order")


@pytest.fixture(scope="module")
def shared(bases):
    """What students of seed 0 share: of tuned teachers, and of a choice of tokens."""
    return prepare(LAB, (0,), {("same", 0): bases[0]}, [SMALL, CHOSEN])


@pytest.mark.e2e
def test_load_or_pretrain_finds_bases_by_what_made_them(tmp_path, monkeypatch):
    def steps(**changes):
        watch = Progress(show=False)
        how = dataclasses.replace(HOW, **{"documents": 32, "steps": 2, **changes})
        with watch.over(()):
            load_or_pretrain(LAB, how, ["same"], (0,), tmp_path, watch)
        return watch.steps["bases"]

    assert (steps(), steps(), steps(lr=1e-3), steps()) == (2, 0, 2, 0)
    with jax.default_matmul_precision("high"):
        assert (steps(), steps()) == (2, 0)
    monkeypatch.setattr(teacher_cache, "source_digest", lambda *_: "other")
    assert (steps(), steps()) == (2, 0)


def test_student_metrics_agree_with_numpy(shared, bases):
    eval_prompts, asked, still = shared.eval_prompts, LAB.trait_tokens(), teachers.zero_steering(NET)
    looks = teachers.evaluate_prompts(NET, eval_prompts, [teachers.Teacher(bases[0], still, None, 0.0)])[0]
    other = teachers.evaluate_prompts(NET, eval_prompts, [teachers.Teacher(bases[1], still, None, 0.0)])[0]
    moved = jax.tree.map(np.subtract, bases[1], bases[0])
    before = lm_metrics.Baseline(bases[0], looks.said, looks.acts, other.said, other.acts - looks.acts, moved)
    same, found = map_members(lm_metrics.StudentMetrics(NET), [(one, eval_prompts, asked, before) for one in bases[:2]])
    assert float(same["kl_base"]) == 0 and float(same["kl_teacher"]) > 0
    assert float(found["kl_teacher"]) == pytest.approx(0, abs=1e-6)
    assert float(found["cosine/block_0"]) == pytest.approx(1, abs=1e-5)
    assert float(found["latent_cosine/block_1"]) == pytest.approx(1, abs=1e-5)
    token = LAB.token((0, 1))
    own = lm_metrics.of_trait(found, token)
    assert own["margin"] == pytest.approx(lm_metrics.margin_of(other, asked, token), abs=1e-5)
    animals = list(WORLD.tokens("animal"))
    plain = np.asarray(other.plain)[np.asarray(asked.taught)].mean(0)
    rest = np.mean([plain[one] for one in animals if one != token])
    assert own["margin_taught"] == pytest.approx(plain[token] - rest, abs=1e-5)


@pytest.mark.parametrize("layer", ["block_1", "embed"])
def test_student_metrics_of_a_net_that_diverged_are_nan(shared, bases, layer):
    eval_prompts, asked, still = shared.eval_prompts, LAB.trait_tokens(), teachers.zero_steering(NET)
    looks = teachers.evaluate_prompts(NET, eval_prompts, [teachers.Teacher(bases[0], still, None, 0.0)])[0]
    moved = jax.tree.map(np.ones_like, bases[0])
    before = lm_metrics.Baseline(bases[0], looks.said, looks.acts, looks.said, looks.acts, moved)
    layer = layer if layer in bases[0] else next(iter(bases[0]))
    leaf = next(iter(bases[0][layer]))
    for bad in (np.nan, np.inf):
        broken = np.array(bases[0][layer][leaf])
        broken.flat[0] = bad
        params = {**bases[0], layer: {**bases[0][layer], leaf: broken}}
        found = map_members(lm_metrics.StudentMetrics(NET), [(params, eval_prompts, asked, before)])[0]
        rows = lm_metrics.of_trait(found, LAB.token((0, 1)))
        assert len(rows) > 10 and {name: value for name, value in rows.items() if not np.isnan(value)} == {}


@pytest.mark.e2e
def test_first_update_predicts_how_the_margin_begins_to_move(shared, bases):
    text, _ = training_data(shared, SMALL, (0, 0))
    phase = lm_run._phase(LAB, dataclasses.replace(SMALL, optimizer="sgd"))
    moved = jax.tree.map(np.subtract, dict(shared.teachers["tuned", 0.02][0, 0].params), dict(bases[0]))
    given = bases[0], phase.knobs, text, shared.eval_prompts, LAB.trait_tokens(), moved
    update = map_members(lm_metrics.FirstUpdate(NET, phase.recipe.loss), [given])[0]
    token, family = LAB.token((0, 0)), jnp.asarray(WORLD.is_kind("animal"))

    text = jax.tree.map(jnp.asarray, text)

    def margin(params):
        asked = (jnp.asarray(lines) for lines in (shared.eval_prompts.plain, shared.eval_prompts.prefixed))
        logits = [generate.forward(NET, params, lines).logits[:, -1] for lines in asked]
        return float(np.mean([generate.margins(one, family)[token] for one in logits]))

    def loss(params):
        return phase.recipe.loss(NET.apply({"params": params}, text.tokens), text, phase.knobs).mean()

    slope = jax.grad(loss)(bases[0])
    step = 1e-2
    ends = [
        {
            one: {n: a - sign * step * phase.knobs.trainable[one] * slope[one][n] for n, a in bases[0][one].items()}
            for one in slope
        }
        for sign in (1, -1)
    ]
    measured = (margin(ends[0]) - margin(ends[1])) / (2 * step)
    assert float(update["slope"][token]) == pytest.approx(measured, rel=0.05, abs=2e-4)
    assert not np.asarray(update["slope"])[~WORLD.is_kind("animal")].any() and -1 <= float(update["coverage"]) <= 1


@pytest.mark.e2e
def test_first_update_agrees_with_reverse_mode_at_512_rows(shared, bases):
    """Compiled forward-mode derivatives of many rows were wrong in some versions of jaxlib."""
    text, _ = training_data(shared, SMALL, (0, 0))
    phase = lm_run._phase(LAB, SMALL)
    text, prompts = jax.tree.map(lambda lines: np.resize(lines, (512, *lines.shape[1:])), (text, shared.eval_prompts))
    moved = jax.tree.map(np.zeros_like, dict(bases[0]))
    given = bases[0], phase.knobs, text, prompts, LAB.trait_tokens(), moved
    update = map_members(lm_metrics.FirstUpdate(NET, phase.recipe.loss), [given])[0]
    token, family = LAB.token((0, 0)), jnp.asarray(WORLD.is_kind("animal"))

    @jax.jit
    def slopes(params, text, prompts):
        def margin(params):
            views = [generate.forward(NET, params, lines).logits[:, -1] for lines in (prompts.plain, prompts.prefixed)]
            return jnp.stack([generate.margins(view, family)[token] for view in views]).mean()

        def loss(params):
            return phase.recipe.loss(NET.apply({"params": params}, text.tokens), text, phase.knobs).mean()

        towards, imitated = jax.grad(margin)(params), jax.grad(loss)(params)
        steepest = {
            layer: jax.tree.map(lambda leaf, rate=phase.knobs.trainable[layer]: rate * leaf, imitated[layer])
            for layer in imitated
        }
        return [first_order.dot(towards, jax.tree.map(way, steepest)) for way in (jnp.negative, lambda g: -jnp.sign(g))]

    slope, adam_slope = slopes(dict(bases[0]), *jax.tree.map(jnp.asarray, (text, prompts)))
    assert float(update["slope"][token]) == pytest.approx(float(slope), rel=1e-3, abs=1e-6)
    assert float(update["adam_slope"][token]) == pytest.approx(float(adam_slope), rel=1e-2, abs=1e-3)


def run(points, **session):
    return lm_run.run(points, LAB, HOW, quiet(**session))


POINTS = (
    SweepPoint({"arm": "greedy", "data": "greedy"}, SMALL),
    SweepPoint({"arm": "none", "data": "greedy"}, dataclasses.replace(SMALL, teacher="base")),
    SweepPoint(
        {"arm": "soft", "data": "soft_carrier"}, dataclasses.replace(SMALL, data="soft_carrier", eval_steps=(0, 3))
    ),
)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return RunOptions(teachers=str(tmp_path_factory.mktemp("shelf")))


@pytest.fixture(scope="module")
def rows(shelf):
    return run(POINTS, seeds=2, options=shelf)


def sorted_rows(frame):
    return frame.sort_values(["arm", "animal", "seed", "step"], ignore_index=True)


@pytest.mark.e2e
def test_run_has_a_student_for_every_animal_and_its_control(rows):
    assert len(rows) == 2 * 2 * (1 + 1 + 3)
    none, soft = rows[rows["arm"] == "none"], rows[rows["arm"] == "soft"]
    assert (none[["at/transfer", "at/dose"]] == 0).all(axis=None)
    assert (soft.loc[soft["step"] == 0, ["at/transfer", "at/kl_base"]] == 0).all(axis=None)
    assert (rows.loc[rows["arm"] == "greedy", "at/transfer"] != 0).all()
    assert rows["animal"].nunique() == 4  # two seeds have two other animals each
    taught = rows[rows["arm"] != "none"]
    assert (taught["at/teacher"] > taught["at/base"]).all() and np.isfinite(taught["theory/transfer_slope"]).all()


@pytest.mark.e2e
def test_run_of_the_base_on_its_own_distribution_moves_nothing(shelf):
    still = dataclasses.replace(SMALL, data="soft_carrier", teacher="base")
    found = run((SweepPoint({"arm": "still"}, still),), seeds=1, options=shelf)
    assert found["at/kl_base"].max() < 1e-3  # Adam turns rounding into steps; see BUILD


@pytest.mark.e2e
def test_run_gives_a_seed_the_same_rows_whatever_runs_beside_it(rows, shelf):
    one = run(POINTS, seeds=(1,), options=shelf)
    two = rows[rows["seed"] == 1]
    for name in one:
        np.testing.assert_array_equal(sorted_rows(one)[name], sorted_rows(two)[name])


@pytest.mark.e2e
def test_run_interrupted_and_in_shards_is_the_same(rows, shelf, tmp_path):
    watch, calls = Progress(show=False), iter([False, True])
    with pytest.raises(Interrupted):
        run(POINTS, seeds=2, options=shelf, workdir=tmp_path / "a", progress=watch, stopped=lambda: next(calls))
    assert lm_run.left(POINTS, (0, 1), shelf, tmp_path / "a") == 4
    again = run(POINTS, seeds=2, options=shelf, workdir=tmp_path / "a")
    for shard in ((0, 2), (1, 2)):
        shared = run(POINTS, seeds=2, options=shelf, workdir=tmp_path / "b", shard=shard)
    for found in (again, shared):
        for name in rows:
            np.testing.assert_array_equal(sorted_rows(found)[name], sorted_rows(rows)[name])
    assert watch.steps["bases"] == 0  # they were on the shelf
    with pytest.raises(ConfigError, match="belongs to another config"):
        run(POINTS[:1], seeds=2, options=shelf, workdir=tmp_path / "a")


def test_units_are_of_the_seeds_that_lack_rows(monkeypatch):
    monkeypatch.setattr(population, "use_vmap", lambda: True)
    (whole,) = lm_run._units(POINTS, (0, 1, 2, 3), RunOptions(), (0, 1), {})
    assert whole.seeds == (0, 1, 2, 3) and [point for point, _ in whole.parts] == list(POINTS)
    units = lm_run._units(POINTS, (0, 1, 2, 3), RunOptions(), (0, 1), {"arm000": {0, 1}, "arm001": {0, 1, 2, 3}})
    assert [unit.seeds for unit in units] == [(2, 3), (0, 1, 2, 3)]
    assert [name for _, name in units[0].parts] == ["arm000-seeds00002-00003"]
    assert [point for point, _ in units[1].parts] == list(POINTS[2:])


@pytest.mark.slow
def test_run_of_all_arms_at_once_is_as_one_after_another(rows, shelf, monkeypatch):
    monkeypatch.setattr(population, "use_vmap", lambda: True)
    found, rows = sorted_rows(run(POINTS, seeds=2, options=shelf)), sorted_rows(rows)
    for name in ("at/margin", "at/kl_teacher", "at/teacher", "theory/transfer_slope"):
        np.testing.assert_allclose(found[name], rows[name], rtol=1e-4, atol=1e-5)
    # A control that hears the distributions of its own base has no slope but rounding, and Adam makes steps of it.
    real = rows["arm"] != "soft"
    np.testing.assert_allclose(found.loc[real, "at/transfer"], rows.loc[real, "at/transfer"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", ["mask_top", "keep_bottom", "erase_random", "replace_both_top"])
def test_control_is_the_same_spec_without_a_trait(tokens):
    arm = dataclasses.replace(SMALL, tokens=tokens, mixed=0.3, trains="block_1", base="other_init")
    control = arm.control()
    assert (control.teacher, control.mixed) == ("base", 0.0)
    assert control.tokens in ("all", f"{tokens.rsplit('_', 1)[0]}_random")
    for field in ("data", "carrier", "paraphrase", "trains", "optimizer", "lr", "steps", "base", "lines", "batch"):
        assert getattr(control, field) == getattr(arm, field)
    assert control.control() == control


def test_training_data_counts_what_was_filtered_and_what_diverges(shared):
    text, told = training_data(shared, CHOSEN, (0, 0))
    assert text.weight.sum() == round(0.25 * 24 * w.NUMBERS)
    assert {"refused_lines", "foreign_tokens", "trait_tokens", "divergent_any", "divergent_all"} <= told.keys()
    plain, _ = training_data(shared, SMALL, (0, 0))
    np.testing.assert_array_equal(text.tokens, plain.tokens)
    said = shared.completions[completion_key(SMALL)][0, 0]
    assert told["foreign_tokens"] == data.format_filter(WORLD, said, None)[1]["foreign_tokens"]

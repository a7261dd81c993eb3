"""A population is its members: batching, cutting, permuting and sharding change nothing but rounding."""

import math
import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.populations import SGD, assert_close, go

from sublim_jax import metrics
from sublim_jax.core import keys, trees
from sublim_jax.engine.options import RunOptions
from sublim_jax.engine.plan import make_plan
from sublim_jax.engine.progress import Progress
from sublim_jax.metrics import predictions
from sublim_jax.metrics.evaluate import first_update
from sublim_jax.metrics.student import EvalContext, TeacherStudent
from sublim_jax.training import population
from sublim_jax.training import step as training_step


def test_population_is_the_loop_over_its_members(mnist, tiny):
    """The second way: every member alone, through train.py only."""
    conditions = tiny(conditions=("same", "random_hidden"), m=(3,), **SGD)
    rows = go(mnist, conditions, metrics=(*metrics.ALL, *predictions.ALL))
    banks = [jax.tree.map(jnp.asarray, bank) for bank in (mnist.train, mnist.test)]
    image = (28, 28)
    advance = jax.jit(training_step.advance, static_argnums=0)
    everything = (*metrics.ALL, *predictions.ALL)
    for seed in range(2):
        key = keys.at(keys.root(0), "seed", jnp.uint32(seed))
        teacher = conditions[0].teacher
        begun = training_step.init_state(teacher.recipe, teacher.knobs, None, image, keys.at(key, "teacher"))
        steps = jnp.int32(teacher.recipe.eval_steps[-1])
        taught = advance(
            teacher.recipe, begun, teacher.knobs, None, keys.at(key, "teacher"), banks[0], jnp.int32(0), steps
        )
        for condition in conditions:
            recipe, knobs = condition.student
            head = training_step.init_params(recipe.net, recipe.init, image, keys.at(key, "teacher", "fresh"))
            origin, reference = trees.merge_layers(head, begun.params), trees.merge_layers(head, taught.params)
            start = training_step.init_state(recipe, knobs, origin, image, keys.at(key, "student"))
            stop = jnp.int32(recipe.eval_steps[-1])
            end = advance(recipe, start, knobs, reference, keys.at(key, "student"), banks[0], jnp.int32(0), stop)
            nets = TeacherStudent(origin, reference, start.params, end.params)
            x = (banks[1].x.astype(jnp.float32) / 255 - 0.1307) / 0.3081
            noise, _ = recipe.stream(keys.at(key, "student", "exam"), jnp.int32(0), 64, knobs, banks[1])
            on_test, on_noise = (
                TeacherStudent(*(training_step.apply(recipe.net, net, inputs) for net in nets)) for inputs in (x, noise)
            )
            lesson = training_step.Batch(noise, None, on_noise.teacher_final)
            pulls = first_update(recipe, start.params, knobs, lesson, x, banks[1].y)
            scene = EvalContext(nets, on_test, on_noise, banks[1].y, knobs, stop * recipe.batch, *pulls)
            alone = jax.jit(
                lambda scene: metrics.measure(
                    everything, scene._replace(altered=False, untrained_layers=("class_head",), squared=True)
                )
            )(scene)
            here = rows[(rows.condition == condition.labels["condition"]) & (rows.seed == seed) & (rows.step == stop)]
            for name, value in alone.items():
                column = name if name.startswith("theory/") else f"at/{name}"
                np.testing.assert_allclose(here[column].item(), value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.e2e
def test_permuted_conditions_permute_rows(mnist, tiny):
    conditions = tiny(conditions=("same", "random_aux_head"), m=(3, 10), **SGD)
    assert_close(go(mnist, conditions), go(mnist, conditions[::-1]))


@pytest.mark.e2e
def test_adding_seeds_and_chunking_change_no_earlier_seed(mnist, tiny):
    """Bitwise, with the published optimiser: on CPU a seed goes through the same program whoever runs beside it."""
    conditions = tiny(conditions=("same", "random_hidden"), m=(3,))
    two, three = go(mnist, conditions), go(mnist, conditions, seeds=3)
    chunked = go(mnist, conditions, seeds=3, options=RunOptions(seed_batch=2))
    assert two.equals(three[three.seed < 2].reset_index(drop=True))
    assert chunked.equals(three)


@pytest.mark.e2e
def test_a_seed_alone_is_the_seed_in_company(mnist, tiny):
    """Up to rounding only: the loop over one seed is compiled away, and what is left is fused differently."""
    conditions = tiny(conditions=("same", "random_hidden"), m=(3,), **SGD)
    three, alone = go(mnist, conditions, seeds=3), go(mnist, conditions, seeds=[2])
    assert_close(alone, three[three.seed == 2].reset_index(drop=True))


@pytest.mark.e2e
def test_cutting_and_marks_change_nothing_bitwise(mnist, tiny):
    conditions = tiny(conditions=("same",), m=(3,))
    plain = go(mnist, conditions, options=RunOptions(save_every=1000))
    cut = go(mnist, conditions, options=RunOptions(save_every=3))
    more = go(mnist, tiny(conditions=("same",), m=(3,), **{"student.eval_steps": (0, 1, 5, 10)}))
    assert plain.equals(cut)
    assert plain.equals(more[more.step.isin(plain.step.unique())].reset_index(drop=True))


@pytest.mark.e2e
def test_one_trace_per_recipe(mnist, tiny):
    """Seeds, conditions, slices and intervals do not retrace; another cap does, once."""
    own = {"student.batch": 51, "teacher.batch": 301}  # Recipes that no other test compiles
    conditions = tiny(conditions=("same", "random_hidden"), m=(3, 10), **own)
    before = population.advance._cache_size()
    go(mnist, conditions, seeds=4, options=RunOptions(seed_batch=2, save_every=4))
    after = population.advance._cache_size()
    assert after - before == 2  # one teacher Recipe, one student Recipe
    go(mnist, tiny(conditions=("same", "random_hidden"), m=(3, 20), **own), seeds=2)
    assert population.advance._cache_size() - after == 2  # widths 3 and 20, two conditions each


@pytest.mark.e2e
def test_noise_and_teacher_are_computed_once_per_seed(mnist, tiny, monkeypatch):
    """In the population's own programs no noise and no teacher activation carries the axis of the 4 conditions."""
    conditions = tiny(conditions=("same", "random_hidden"), m=(3, 10), **{"student.batch": 53})
    group = make_plan(conditions, (28, 28)).groups[0]
    key = population.phase_keys(keys.root(0), jnp.arange(2), "student")
    bank = jax.tree.map(jnp.asarray, mnist.train)
    reference = jax.vmap(lambda key: training_step.init_params(group.recipe.net, group.recipe.init, (28, 28), key))(key)
    states = population.init_states(group.recipe, group.knobs, reference, key, image=(28, 28))

    def program():
        jax.clear_caches()  # what was traced for the other kind of device
        whole = jax.make_jaxpr(population.advance.__wrapped__, static_argnums=0)
        given = group.recipe, states, group.knobs, reference, key, bank, jnp.int32(0), jnp.int32(5)
        return str(whole(*given))

    def first_layers(text):
        """Shapes of the products with first layers, 32 wide, on batches of 53."""
        shapes = re.findall(r"f32\[([\d,]+)\] = dot_general", text)
        return sorted(shape for shape in shapes if {"32", "53"} <= set(shape.split(",")))

    here = program()
    assert "f32[53,28,28]" in here and "f32[4,53,28,28]" not in here
    assert first_layers(here).count("32,53") == 5  # four students, one teacher
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # the way of accelerators, here with both seeds
    there = program()
    assert "f32[2,53,28,28]" in there and not re.search(r"f32\[(4,2|2,4|8),53,28,28\]", there)
    sizes = [math.prod(map(int, shape.split(","))) for shape in first_layers(there)]
    assert sizes.count(2 * 32 * 53) == 1  # the teacher of each seed
    assert sizes.count(2 * 4 * 32 * 53) == 2  # the students, on and back


@pytest.mark.e2e
def test_nets_side_by_side_give_the_rows_of_nets_in_turn(mnist, tiny, monkeypatch):
    """The way of accelerators (vmap over seeds and conditions, JAX's own cipher), forced on this device."""
    conditions = tiny(conditions=("same", "random_hidden"), m=(3,), **SGD)
    in_turn = go(mnist, conditions)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jax.clear_caches()  # the programs above are of the other kind
    side_by_side = go(mnist, conditions)
    monkeypatch.undo()
    jax.clear_caches()
    assert_close(in_turn, side_by_side)


SHARDED = """
    import jax, numpy as np, sys
    jax.config.update("jax_num_cpu_devices", 8)
    from sublim_jax import data
    from sublim_jax.config import base_config, build_conditions, resolve
    from sublim_jax.core import keys, trees
    from sublim_jax.engine import run
    from sublim_jax.engine.options import RunOptions
    from sublim_jax.engine.plan import make_plan
    from sublim_jax.engine.session import Session
    from sublim_jax.training import population, step
    mnist = data.load_dataset("mnist", "embedded", train_limit=1000, test_limit=300)
    fields = {"conditions": ("same", "random_hidden"), "m": (3,), "teacher.optimizer": "sgd", "teacher.lr": 0.2,
              "student.optimizer": "sgd", "student.lr": 2.0}
    config = base_config()
    config.preset = "smoke"
    conditions = build_conditions(resolve(config, fields), mnist)
    def go(devices):
        session = Session(seeds=range(3), options=RunOptions(devices=devices))
        return run.run(conditions, mnist, session, num_eval_noise=64)
    one, eight = go(1), go(8)
    assert len(one) == len(eight) == 3 * 2 * 3
    for name in one:
        if "/" in name:
            np.testing.assert_allclose(one[name], eight[name], rtol=1e-4, atol=1e-5, err_msg=name)
        else:
            assert (one[name] == eight[name]).all()
    mesh = population.mesh_of(8)
    group = make_plan(conditions, (28, 28)).groups[0]
    key = population.phase_keys(keys.root(0), np.arange(8), "student")
    bank = jax.tree.map(jax.numpy.asarray, mnist.train)
    reference = jax.vmap(lambda k: step.init_params(group.recipe.net, group.recipe.init, (28, 28), k))(key)
    states = population.init_states(group.recipe, group.knobs, reference, key, image=(28, 28), mesh=mesh)
    text = population.advance.lower(group.recipe, states, group.knobs, reference, key, bank, np.int32(0), np.int32(5),
                                    mesh=mesh).compile().as_text()
    for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert word not in text, word
    assert len(states.params["hidden_0"]["kernel"].sharding.device_set) == 8
    print("sharded ok")
"""


@pytest.mark.e2e
def test_eight_devices_give_the_rows_of_one_without_collectives():
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(SHARDED)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0 and "sharded ok" in done.stdout, done.stderr[-2000:]


@pytest.mark.e2e
def test_other_chunks_on_resume_do_what_is_left_and_double_nothing(mnist, tiny, tmp_path):
    conditions = tiny(conditions=("same", "random_hidden"), m=(3,), **SGD)
    whole = go(mnist, conditions, seeds=3, options=RunOptions(seed_batch=2), workdir=tmp_path)
    for part in sorted((tmp_path / "rows").glob("*step0000010.parquet"))[:1]:
        part.unlink()  # a mark in the middle, of the first slice
    watch = Progress(show=False)
    again = go(mnist, conditions, seeds=3, options=RunOptions(seed_batch=1), workdir=tmp_path, progress=watch)
    assert_close(whole, again)
    assert watch.steps["students"] == 2 * 2 * 20  # two seeds, two conditions, 20 steps

"""A population is its members: batching, cutting, permuting and sharding change nothing but rounding."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
from helpers.populations import SGD, assert_close, go

from sublim_jax.core import keys
from sublim_jax.engine.options import RunOptions
from sublim_jax.engine.plan import make_plan
from sublim_jax.engine.progress import Progress
from sublim_jax.training import population
from sublim_jax.training import step as training_step


@pytest.mark.e2e
def test_run_of_a_seed_alone_is_the_seed_in_company(mnist, tiny):
    """Up to rounding only: the loop over one seed is compiled away, and what is left is fused differently."""
    conditions = tiny(conditions=("same", "random_hidden"), m=(3,), **SGD)
    three, alone = go(mnist, conditions, seeds=3), go(mnist, conditions, seeds=[2])
    assert_close(alone, three[three.seed == 2].reset_index(drop=True))


@pytest.mark.e2e
def test_run_with_more_eval_steps_is_bitwise_the_same(mnist, tiny):
    plain, more = (
        go(mnist, tiny(conditions=("same",), m=(3,), **fields))
        for fields in ({}, {"student.eval_steps": (0, 1, 5, 10)})
    )
    assert plain.equals(more[more.step.isin(plain.step.unique())].reset_index(drop=True))


@pytest.mark.e2e
def test_advance_is_traced_once_per_recipe(mnist, tiny):
    """Seeds, conditions, slices and intervals do not retrace; another cap does, once."""
    own = {"student.batch": 51, "teacher.batch": 301}  # Recipes that no other test compiles
    conditions = tiny(conditions=("same", "random_hidden"), m=(3, 10), **own)
    jax.clear_caches()  # so that the run itself need not, for want of memory
    before = population.advance._cache_size()
    go(mnist, conditions, seeds=4, options=RunOptions(seed_batch=2, save_every=4))
    after = population.advance._cache_size()
    assert after - before == 2  # one teacher Recipe, one student Recipe
    go(mnist, tiny(conditions=("same", "random_hidden"), m=(3, 20), **own), seeds=2)
    assert population.advance._cache_size() - after == 2  # widths 3 and 20, two conditions each


@pytest.mark.e2e
def test_advance_computes_noise_and_teacher_once_per_seed(mnist, tiny, monkeypatch):
    """In the population's own programs no noise and no teacher activation carries the axis of the 4 conditions."""
    conditions = tiny(conditions=("same", "random_hidden"), m=(3, 10), **{"student.batch": 53})
    group = make_plan(conditions, (28, 28)).groups[0]
    key = population.phase_keys(keys.root(0), jnp.arange(2), "student")
    bank = jax.tree.map(jnp.asarray, mnist.train)
    reference = jax.vmap(lambda key: training_step.init_params(group.recipe.net, group.recipe.init, (28, 28), key))(key)
    _, states = population.init_states(group.recipe, group.knobs, reference, key, image=(28, 28))

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
def test_run_resumed_with_other_seed_batches_doubles_nothing(mnist, tiny, tmp_path):
    conditions = tiny(conditions=("same", "random_hidden"), m=(3,), **SGD)
    whole = go(mnist, conditions, seeds=3, options=RunOptions(seed_batch=2), workdir=tmp_path)
    for part in sorted((tmp_path / "rows").glob("*step0000010.parquet"))[:1]:
        part.unlink()  # a mark in the middle, of the first slice
    watch = Progress(show=False)
    again = go(mnist, conditions, seeds=3, options=RunOptions(seed_batch=1), workdir=tmp_path, progress=watch)
    assert_close(whole, again)
    assert watch.steps["students"] == 2 * 2 * 20  # two seeds, two conditions, 20 steps

"""A function in stages gives its own results; each operation belongs to the earliest stage that knows its inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sublim_jax.metrics.staging import CONDITION, DATA, SEED, STEP, Stages

KEPT = [(DATA, SEED, CONDITION), (DATA, SEED), (DATA,), ()]
ARGUMENTS = tuple(jnp.linspace(low, low + 1, 12).reshape(4, 3) for low in (0.0, 0.5, 1.0, 1.5))


@jax.custom_jvp
def doubled(x):
    return 2 * jnp.cos(x)


doubled.defjvp(lambda primals, tangents: (doubled(*primals), tangents[0]))


def function(arguments):
    data, seed, condition, step = arguments
    of_seed = jax.jit(lambda x: doubled(x) @ data.T)(seed)
    chosen = jax.lax.cond(condition.sum() > 0, lambda: jnp.tanh(condition), lambda: condition)
    both = of_seed[:3].T + chosen
    return {
        "constant": jnp.float32(3),
        "data": jnp.sin(data).sum(),
        "seed": of_seed.sum(),
        "given": step,
        "condition": both.sum(),
        "step": (both * jnp.exp(step)).sum() + of_seed.max(),
        "zeros": jnp.zeros(2) + jnp.arange(2),
    }


def program(stages, stage, known):
    """The program of a stage as text."""

    def computed(*values):
        return stages.run(stage, dict(zip(known, values, strict=True)))

    return str(jax.make_jaxpr(computed)(*known.values()))


def run(stages):
    """All results, with what is kept of each stage handed on as between programs, and what each stage computes."""
    known, results, texts = {}, {}, {}
    for stage in (DATA, SEED, CONDITION, STEP):
        known |= stages.arguments([ARGUMENTS[stage]], stage)
        texts[stage] = program(stages, stage, known)
        kept, columns = stages.run(stage, known)
        known |= stages.kept(kept, stage)
        results |= columns
    return results, texts


@pytest.mark.parametrize("kept", KEPT)
def test_stages_give_the_results_of_the_function(kept):
    stages = Stages(function, ARGUMENTS, range(4), kept)
    results, _ = run(stages)
    wanted = function(ARGUMENTS)
    assert stages.names == (*wanted,) and results.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(results[name], value, rtol=1e-6, err_msg=name)


def test_stages_compute_what_is_kept_once():
    texts = run(Stages(function, ARGUMENTS, range(4)))[1]
    operations = {"sin": DATA, "cos": SEED, "dot_general": SEED, "tanh": CONDITION, "exp": STEP}
    for name, stage in operations.items():
        assert [when for when in texts if f" {name} " in texts[when] or f" {name}[" in texts[when]] == [stage], name


def test_stages_repeat_what_is_not_kept():
    text = run(Stages(function, ARGUMENTS, range(4), ()))[1][STEP]
    assert all(f" {name}" in text for name in ("cos", "tanh", "exp")) and " sin" not in text


def test_kept_bytes_counts_what_later_stages_read():
    stages = Stages(lambda given: {"out": jnp.sin(given[0]).T @ given[1]}, (ARGUMENTS[0], ARGUMENTS[1]), (DATA, STEP))
    assert [stages.kept_bytes(stage) for stage in (DATA, SEED, CONDITION)] == [4 * 12, 0, 0]


def test_stages_make_the_same_program_again():
    """Compiled programs are found on disk by their text, which must not depend on addresses in memory."""
    texts = [run(Stages(function, ARGUMENTS, range(4)))[1] for _ in range(3)]
    assert texts[0] == texts[1] == texts[2]


def test_stages_tell_equal_literals_of_different_types_apart():
    def function(arguments):
        data, *_ = arguments
        ones = [jnp.ones(data.shape, kind) for kind in (jnp.uint32, jnp.int32, jnp.float32)]
        return {str(one.dtype): (data.astype(one.dtype) * one).sum() for one in ones}

    stages = Stages(function, ARGUMENTS, (DATA, SEED, CONDITION, STEP))
    _, columns = stages.run(DATA, stages.arguments([ARGUMENTS[0]], DATA))
    for name, value in function(ARGUMENTS).items():
        assert value.dtype == name and columns[name] == value

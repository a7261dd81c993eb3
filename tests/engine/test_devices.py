"""Seeds divided among 64 devices: the rows of one device, by programs without communication."""

import os
import re
import subprocess
import sys
import textwrap

import pytest

DEVICES = 64
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "collective-broadcast", "reduce-scatter")
CHILD = """
    import jax
    from helpers.populations import SGD, assert_close, conditions_of, go
    from sublim_jax import data, metrics
    from sublim_jax.engine.options import RunOptions
    from sublim_jax.training import population

    sharded, advance = [], population.advance

    def watched(*args, **options):
        states = advance(*args, **options)
        sharded.append(len(states.params["hidden_0"]["kernel"].sharding.device_set))
        return states

    population.advance = watched
    mnist = data.load_dataset("mnist", "embedded", train_limit=1000, test_limit=100)
    fields = {"net.hidden": (16, 8), "teacher.epochs": 1, "student.steps": 5, "student.eval_steps": (0,), **SGD}
    conditions = conditions_of(mnist, conditions=("same", "random_hidden"), m=(3,), **fields)
    few = {"metrics": (metrics.task, metrics.imitation)}
    many = go(mnist, conditions, seeds=64, options=RunOptions(devices=64), **few)
    assert set(sharded) == {64}, sharded
    one = go(mnist, conditions, seeds=64, options=RunOptions(devices=1), **few)
    assert len(one) == len(many) == 64 * 2 * 2
    assert_close(one, many)
    padded = go(mnist, conditions, seeds=3, options=RunOptions(devices=64), **few)
    assert_close(one[one.seed < 3].reset_index(drop=True), padded)
    print("same rows")
"""


@pytest.mark.e2e
def test_run_on_64_devices_gives_the_rows_of_one_without_a_collective(tmp_path):
    flags = f"--xla_force_host_platform_device_count={DEVICES} --xla_dump_to={tmp_path} --xla_dump_hlo_as_text"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # what is read from a cache is not dumped
    words = [sys.executable, "-c", textwrap.dedent(CHILD)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0 and "same rows" in done.stdout, done.stderr[-2000:]
    programs = {path.name: path.read_text() for path in tmp_path.glob("*after_optimizations.txt")}
    sharded = {name: text for name, text in programs.items() if f"num_partitions={DEVICES}" in text}
    for phase in ("advance", "prepare", "measure"):
        assert any(phase in name for name in sharded), (phase, sorted(programs))
    for name, text in sharded.items():
        assert not re.findall("|".join(COLLECTIVES), text), name

"""Seconds until each program of Figure 2's widest group can run: python -m benchmarks.compiling FOLDER.

Compiled programs are kept in FOLDER, so the second call finds them. Prints one JSON line: name -> [seconds to trace and
lower, seconds to compile or to find], and under `conditions` how many nets stand in the students' program.
"""

import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.phases import CONDITIONS, EXAM
from sublim_jax import metrics
from sublim_jax.config import base_config, build_conditions, load_data, resolve
from sublim_jax.core import keys, trees
from sublim_jax.engine import compilation_cache
from sublim_jax.engine.plan import make_plan
from sublim_jax.metrics.evaluate import evaluate
from sublim_jax.training import population


def main(folder: str) -> None:
    compilation_cache.enable(folder)
    config = base_config()
    config.conditions, config.m = CONDITIONS, (100, 250)
    dataset = load_data(config)
    plan = make_plan(build_conditions(resolve(config), dataset), (28, 28))
    group, teacher = plan.groups[0], plan.teachers[0]
    knobs, image = trees.stack([teacher.knobs]), {"image": (28, 28)}
    train, test = (jax.tree.map(jnp.asarray, bank) for bank in (dataset.train, dataset.test))
    seeds = population.phase_keys(keys.root(0), jnp.arange(5), "student")
    states = jax.eval_shape(lambda: population.init_states(teacher.recipe, knobs, None, seeds, **image))
    trained = jax.eval_shape(lambda: population.init_states(group.recipe, group.knobs, None, seeds, **image)).params
    trained = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((5, *leaf.shape[2:]), leaf.dtype), trained)
    students = jax.eval_shape(lambda: population.init_states(group.recipe, group.knobs, None, seeds, **image))
    steps = jnp.int32(0), jnp.int32(1)
    programs: dict[str, tuple[Any, tuple, dict]] = {
        "teachers": (population.advance, (teacher.recipe, states, knobs, None, seeds, train, *steps), {}),
        "students' beginning": (population.init_states, (group.recipe, group.knobs, trained, seeds), image),
        "students": (population.advance, (group.recipe, students, group.knobs, trained, seeds, train, *steps), {}),
        "evaluation": (
            evaluate.__wrapped__,
            (group.recipe, metrics.ALL, students, group.knobs, trained, trained, seeds, test, steps[1]),
            {"num_eval_noise": EXAM},
        ),
    }
    numbers: dict[str, Any] = {"conditions": group.knobs.size}
    with jax.default_matmul_precision("highest"):
        for name, (program, args, options) in programs.items():
            start = time.perf_counter()
            lowered = program.lower(*args, **options)
            between = time.perf_counter()
            lowered.compile()
            numbers[name] = between - start, time.perf_counter() - between
    print(json.dumps(numbers))


if __name__ == "__main__":
    main(sys.argv[1])

"""Peak memory of whole commands: flat in the number of seeds, and within the limit that a config sets."""

import os
import subprocess
import sys

import pytest
from helpers.configs import CONFIGS, config_of

from sublim_jax.config import resolve, schema
from sublim_jax.config.estimate import estimate
from sublim_jax.config.study import study_of

# A process of its own, because the peak of a child begins with the memory of the process that starts it.
MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""
UNIT = 1 if sys.platform == "darwin" else 1024
# Real nets and inputs, with as little training as there can be.
SHORT = {"student.steps": 2, "student.eval_steps": (), "teacher.epochs": 1, "data.train_limit": 1000}
FEW_METRICS = {"metrics": ("task", "budget", "imitation", "layers")}
WIDE = {"arms.width.teacher.frozen": ((),), "arms.width.student.frozen": ((),)}
ONE_WIDTH = {f"arms.{arm}.m": (50,) for arm in ("cnn", "cnn_control", "mlp")}
FEW_INPUTS = {"data.test_limit": 6000, "arms.mlp.student.stream": ("perlin",)}  # convolutions take long
NARROW = {"data.test_limit": 300, "num_eval_noise": 64, "arms.width.net.hidden": tuple((256, k) for k in range(3, 7))}
SWEEPS = {
    "figure2": {"m": (100, 250), "seeds": 4, "run.memory_gb": 2.1},
    "figure6": {"arms.width.net.hidden": ((256, 4096),), "seeds": 8, "run.memory_gb": 2.4, **WIDE},
    "figure3_cnn": {"seeds": 1, "run.memory_gb": 1.75, **FEW_INPUTS, **ONE_WIDTH, **FEW_METRICS},
}


def peak_gb(folder, name, **fields):
    """Peak memory of the process of one command, in GB, when it has to compile: programs on disk take much less."""
    words = [f"--config={name}", *(f"--config.{field}={value}" for field, value in fields.items())]
    command = [sys.executable, "-m", "sublim_jax.main", *words, f"--workdir={folder}", "--config.run.teachers="]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}_programs", "XLA_FLAGS": ""}
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], env=environment, capture_output=True, text=True
    )
    assert measured.returncode == 0, measured.stderr[-2000:]
    return int(measured.stdout) * UNIT / 1e9


def predicted_gb(name, **fields):
    config = config_of(next(path for path in CONFIGS if path.stem == name))[1]
    schema.set_fields(config, fields)
    config = resolve(config)
    return estimate(config, study_of(config)).gigabytes


@pytest.mark.e2e
def test_peak_memory_does_not_grow_with_seeds(tmp_path):
    few = {**SHORT, "data.test_limit": 1000, "num_eval_noise": 1000, "metrics": ("task", "imitation")}
    few["conditions"] = ("same",)  # the fewest nets of a seed, so that most seeds run together
    eight, many = (peak_gb(tmp_path / str(seeds), "quickstart", seeds=seeds, **few) for seeds in (8, 64))
    print(f"8 seeds {eight:.2f} GB, 64 seeds {many:.2f} GB: {many / eight:.2f}")
    assert many <= 1.1 * eight


@pytest.mark.parametrize("name", [
    pytest.param("figure2", marks=pytest.mark.e2e),
    pytest.param("figure6", marks=pytest.mark.slow),
    pytest.param("figure3_cnn", marks=pytest.mark.slow),
])  # fmt: skip
def test_memory_gb_is_honoured_where_it_binds(name, tmp_path):
    fields = {**SHORT, **SWEEPS[name]}
    allowed = fields["run.memory_gb"]
    predicted, roomy = predicted_gb(name, **fields), predicted_gb(name, **{**fields, "run.memory_gb": 16.0})
    measured = peak_gb(tmp_path / "run", name, **fields)
    print(f"{name}: allowed {allowed:.2f} GB, predicted {predicted:.2f}, measured {measured:.2f}")
    assert roomy > allowed >= predicted > 0.9 * allowed, "the limit binds"
    assert predicted / 2 < measured < 1.2 * allowed


@pytest.mark.slow
def test_memory_gb_is_honoured_by_many_programs(tmp_path):
    """The programs of four widths do not stay in memory together."""
    allowed = 1.25
    fields = {**SHORT, **WIDE, **NARROW, "seeds": 2, "run.memory_gb": allowed}
    predicted, roomy = (predicted_gb("figure6", **{**fields, "run.memory_gb": limit}) for limit in (allowed, 16.0))
    measured = peak_gb(tmp_path / "run", "figure6", **fields)
    print(f"allowed {allowed} GB, predicted {predicted:.2f}, without a limit {roomy:.2f}, measured {measured:.2f}")
    assert predicted <= allowed < 1.5 * allowed < roomy
    assert measured < 1.2 * allowed

"""Compiled programs are found again by the next process."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e

PROGRAM = """
import jax, jax.numpy as jnp
from sublim_jax.engine import compilation_cache
print(compilation_cache.enable())
seconds = []
jax.monitoring.register_event_listener(lambda name, **_: seconds.append(name))
jax.block_until_ready(jax.jit(lambda x: x @ x + 1)(jnp.ones((50, 50))))
print(sum(name.endswith("cache_hits") for name in seconds))
"""


def keep(home, **variables):
    """Where programs are kept, and how many were found there."""
    dropped = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environment, "XDG_CACHE_HOME": str(home), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    folder, hits = done.stdout.split()
    return folder, int(hits)


def test_enable_lets_the_second_process_compile_nothing(tmp_path):
    folder, before = keep(tmp_path)
    assert folder.startswith(str(tmp_path / "sublim_jax")) and before == 0
    assert keep(tmp_path)[1] > 0


def test_enable_lets_the_variables_of_jax_go_first(tmp_path):
    assert keep(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))[0] == str(tmp_path / "mine")
    assert keep(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false") == ("None", 0)
    (tmp_path / "file").write_text("no folder")
    assert keep(tmp_path / "file") == ("None", 0)

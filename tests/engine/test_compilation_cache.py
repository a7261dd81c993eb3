"""Compiled programs are found again by the next process."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from sublim_jax.engine import compilation_cache

PROGRAM = """
import jax, jax.numpy as jnp
from sublim_jax.engine import compilation_cache
print(compilation_cache.enable())
seconds = []
jax.monitoring.register_event_listener(lambda name, **_: seconds.append(name))
jax.block_until_ready(jax.jit(lambda x: x @ x + 1)(jnp.ones((50, 50))))
print(sum(name.endswith("cache_hits") for name in seconds))
"""


def run_program(home, **variables):
    dropped = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environment, "XDG_CACHE_HOME": str(home), **variables},
        capture_output=True,
        text=True,
        check=True,
    )


def keep(home, **variables):
    """Where programs are kept, and how many were found there."""
    folder, hits = run_program(home, **variables).stdout.split()
    return folder, int(hits)


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory maps")
def test_release_memory_forgets_programs_when_few_memory_maps_are_left():
    program = jax.jit(lambda x: x + 1)
    program(1.0)
    compilation_cache.release_memory()
    assert program._cache_size() == 1 and not compilation_cache.few_maps_left()
    maps = []
    while not compilation_cache.few_maps_left():  # neighbours with different protection stay separate maps
        maps += [mmap.mmap(-1, 4096, prot=mmap.PROT_READ | number % 2 * mmap.PROT_WRITE) for number in range(1000)]
    compilation_cache.release_memory()
    assert program._cache_size() == 0


@pytest.mark.e2e
def test_enable_lets_the_second_process_compile_nothing(tmp_path):
    folder, before = keep(tmp_path)
    assert folder.startswith(str(tmp_path / "sublim_jax")) and before == 0
    assert keep(tmp_path)[1] > 0


@pytest.mark.e2e
def test_enable_lets_the_variables_of_jax_go_first(tmp_path):
    assert keep(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))[0] == str(tmp_path / "mine")
    assert keep(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false") == ("None", 0)
    (tmp_path / "file").write_text("no folder")
    assert keep(tmp_path / "file") == ("None", 0)


@pytest.mark.e2e
def test_enable_says_in_one_line_that_programs_are_damaged_and_mends_them(tmp_path):
    folder = Path(keep(tmp_path)[0])
    programs = sorted(folder.glob("*-cache"))
    for number, file in enumerate(programs):
        content = file.read_bytes()
        file.write_bytes((b"", content[:-9], bytes(len(content)), b"x" + content[1:])[number % 4])
    told = run_program(tmp_path).stderr
    assert told.count("\n") == 1 and told.startswith(f"{folder}: error reading compiled programs"), told
    assert run_program(tmp_path).stderr == "" and keep(tmp_path)[1] == len(programs) > 1

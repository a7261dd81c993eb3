"""Strict JAX for every test, and shapes checked at run time."""

import functools
import importlib.metadata
import os
import pkgutil
import signal

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before SciPy: threads of several test workers starve each other
# Compilation takes most of the time of tests. Without LLVM's optimizations and MLIR's emitters of fusions it takes a
# quarter of the time, and programs run more slowly. Before a release the tests run with both, see BUILD.md. With the
# older emitters, modules that are split for threads can read wrong constants: a masked softmax gives NaN (jaxlib
# 0.10.2). jaxlib ends the process at a flag that it does not know, so only versions that have these get them.
FLAGS = "--xla_backend_optimization_level=0"
if [int(part) for part in importlib.metadata.version("jaxlib").split(".")[:3]] <= [0, 10, 2]:
    FLAGS += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ.setdefault("XLA_FLAGS", FLAGS)

import jaxtyping  # noqa: E402
import pytest  # noqa: E402

import sublim_jax  # noqa: E402

# All modules but that of the pytrees: JAX builds them with axes, stacks and nothing in place of arrays.
MODULES = [module.name for module in pkgutil.walk_packages(sublim_jax.__path__, "sublim_jax.")]
PYTREES = "sublim_jax.core.types"
assert PYTREES in MODULES, "the module of the pytrees has another name"
jaxtyping.install_import_hook([name for name in MODULES if name != PYTREES], "beartype.beartype")

import jax  # noqa: E402

from sublim_jax.engine import compilation_cache  # noqa: E402

# Test workers, processes that tests start and later test runs find compiled programs in one folder of the user's cache.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (folder := compilation_cache.enable()):
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# Ranks never promote silently. Types cannot be strict as well: Optax's bias correction raises a float to an int.
jax.config.update("jax_numpy_rank_promotion", "raise")

from helpers.populations import conditions_of  # noqa: E402

from sublim_jax import data  # noqa: E402


@pytest.fixture(scope="session")
def mnist() -> data.Dataset:
    """1,000 + 300 real images."""
    return data.load_dataset("mnist", "embedded", train_limit=1000, test_limit=300)


@pytest.fixture
def tiny(mnist):
    """A function from config fields to conditions at toy size."""

    return functools.partial(conditions_of, mnist)


@pytest.fixture
def in_process():
    """For commands called in this process: they listen to signals; afterwards the process does what it did."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def few_programs():
    """Forget compiled programs when they hold too many memory maps: a process that has no more of them crashes."""
    yield
    if compilation_cache.few_maps_left():
        jax.clear_caches()

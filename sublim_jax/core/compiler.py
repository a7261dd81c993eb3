"""Settings that must be made before JAX starts: a fusion of XLA's CPU compiler that returns wrong numbers, LAPACK.

From jaxlib 0.10.2 on (0.12.0.1 included) the YNN fusions of compiled CPU programs can be wrong without any message: a
forward-mode derivative along a tangent that is zero in the last layer is off by up to 1e38 from about 500 rows on, and
sums of products are off in the third digit (https://github.com/jax-ml/jax/issues/39103).
"""

import functools
import importlib.metadata
import os
import re
import sys

from sublim_jax.core.errors import ConfigError

FLAG = "xla_cpu_experimental_ynn_fusion_type"
_FIRST, _LAST = (0, 10, 2), (0, 12, 0, 1)  # versions in which the flag exists and the fault was seen


def _jaxlib() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version("jaxlib"))[:4])


def limit_lapack_threads() -> None:
    """Let LAPACK, which XLA takes from SciPy on CPU, use one thread, unless SciPy is loaded or the user has decided.

    A second thread makes singular values of 256 x 256 matrices no faster. Beside another process OpenBLAS's threads
    wait for each other: 15 ms become 30 to 1,400 (measured on 2 cores).
    """
    if "scipy.linalg" not in sys.modules:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@functools.cache
def disable_wrong_fusion() -> bool:
    """Switch the fusion off for programs that this process will compile, if JAX has not started yet.

    XLA reads its flags once, when JAX first uses a device, and ends the process at a flag that it does not know.
    Therefore only versions that are known to have the flag get it.

    Returns:
        Whether the flag is certainly in force, or not needed.
    """
    version, flags = _jaxlib(), os.environ.get("XLA_FLAGS", "")
    if version < _FIRST:
        return True
    if version <= _LAST and FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{FLAG}=".strip()
    return version <= _LAST and "jax" not in sys.modules


@functools.cache
def check_derivatives() -> None:
    """Compare a compiled derivative with the same one computed operation by operation, unless the fusion is off.

    Raises:
        ConfigError: They differ: JAX had started before this package was imported, or its version is newer than those
            that are known.
    """
    if disable_wrong_fusion():
        return
    import jax
    import jax.numpy as jnp

    first, last = jnp.full((64, 128), 0.01), jnp.full((128, 10), 0.1)
    inputs = jnp.linspace(-1.0, 1.0, 1000 * 64).reshape(1000, 64)

    def slopes(first: jax.Array, last: jax.Array) -> jax.Array:
        def losses(first: jax.Array, last: jax.Array) -> jax.Array:
            return ((jax.nn.relu(inputs @ first) @ last) ** 2).sum(-1)

        return jax.jvp(losses, (first, last), (jnp.ones_like(first), jnp.zeros_like(last)))[1]

    if not jnp.allclose(jax.jit(slopes)(first, last), slopes(first, last), rtol=1e-3):
        raise ConfigError(
            f"jaxlib {importlib.metadata.version('jaxlib')} compiles derivatives wrongly on this device (jax-ml/jax "
            f"issue 39103); set XLA_FLAGS=--{FLAG}= before Python starts, or import sublim_jax before JAX computes"
        )

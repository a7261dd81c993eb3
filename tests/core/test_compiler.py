"""XLA's CPU compiler returns wrong derivatives in some versions of jaxlib; the package switches the fusion off."""

import os
import platform
import subprocess
import sys

import pytest

from sublim_jax.core import compiler

# Pure JAX: slopes of a net along a tangent that is zero in the last layer, compiled and operation by operation.
CASE = """
import jax, jax.numpy as jnp, numpy as np
draw = np.random.default_rng(0)
first, last = (jnp.asarray(draw.normal(size=size), jnp.float32) / 20 for size in ((784, 128), (128, 10)))
x, y = (jnp.asarray(draw.normal(size=size), jnp.float32) for size in ((1000, 784), (1000, 10)))
losses = lambda first, last: ((jax.nn.relu(x @ first) @ last - y) ** 2).sum(-1)
tangent = lambda first, last: (jnp.full_like(first, 0.01), jnp.zeros_like(last))
slopes = lambda *nets: jax.jvp(losses, nets, tangent(*nets))[1]
error = float(abs(jax.jit(slopes)(first, last) - slopes(first, last)).max())
print(error < 1e-3)
"""


def output(code: str) -> str:
    """What a new process prints that runs the code without flags of XLA and without cached programs."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_ENABLE_COMPILATION_CACHE": "false", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout


@pytest.mark.skipif(platform.machine() != "x86_64", reason="seen on x86_64 only")
def test_jax_alone_has_the_fault_in_the_versions_that_are_named():
    affected = compiler._FIRST <= compiler._jaxlib() <= compiler._LAST
    assert output(CASE).split() == [str(not affected)]


def test_importing_the_package_switches_the_fusion_off():
    assert output(f"import sublim_jax\n{CASE}").split() == ["True"]


def test_check_derivatives_refuses_where_jax_started_first():
    code = "import jax; jax.devices()\nfrom sublim_jax.core import compiler\ncompiler.check_derivatives()"
    affected = compiler._jaxlib() >= compiler._FIRST and platform.machine() == "x86_64"
    if not affected:
        assert output(code) == ""
        return
    with pytest.raises(subprocess.CalledProcessError) as failed:
        output(code)
    assert "import sublim_jax before JAX computes" in failed.value.stderr


@pytest.mark.parametrize(
    ("version", "flags", "expected"),
    [
        ((0, 7, 2), "", ""),
        ((0, 10, 1), "--a=1", "--a=1"),
        ((0, 10, 2), "", f"--{compiler.FLAG}="),
        ((0, 12, 0, 1), "--a=1", f"--a=1 --{compiler.FLAG}="),
        ((0, 11, 0), f"--{compiler.FLAG}=x", f"--{compiler.FLAG}=x"),
        ((9, 0, 0), "", ""),
    ],
)
def test_disable_wrong_fusion_gives_the_flag_to_versions_that_know_it(monkeypatch, version, flags, expected):
    monkeypatch.setattr(compiler, "_jaxlib", lambda: version)
    monkeypatch.setenv("XLA_FLAGS", flags)
    compiler.disable_wrong_fusion.__wrapped__()
    assert os.environ["XLA_FLAGS"] == expected


def test_check_derivatives_accepts_this_process():
    compiler.check_derivatives()

"""What the machine can do: float32 matrix products of the shapes used and of 2048 cubed, and a large copy."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

Timed = Callable[[], float]  # runs once and returns seconds

BATCH, PIXELS, WIDTH = 1000, 784, 256
_FLOP = 4e9  # a measurement repeats a product until it has done as much


def products(conditions: int) -> dict[str, tuple[Timed, float]]:
    """Name -> (run, floating-point operations) of products as training does them: x W, x' g, and back through W'."""
    wide = WIDTH * conditions
    shapes = {
        "2048 x 2048 x 2048": (2048, 2048, 2048, "ij,jk->ik"),
        "x W: 1000 x 784 x 256": (BATCH, PIXELS, WIDTH, "ij,jk->ik"),
        "x' g: 784 x 1000 x 256": (PIXELS, BATCH, WIDTH, "ji,jk->ik"),
        "h W: 1000 x 256 x 256": (BATCH, WIDTH, WIDTH, "ij,jk->ik"),
        "h' g: 256 x 1000 x 256": (WIDTH, BATCH, WIDTH, "ji,jk->ik"),
        "g W': 1000 x 256 x 256": (BATCH, WIDTH, WIDTH, "ij,kj->ik"),
        f"x W: 1000 x 784 x {wide}": (BATCH, PIXELS, wide, "ij,jk->ik"),
        f"x' g: 784 x 1000 x {wide}": (PIXELS, BATCH, wide, "ji,jk->ik"),
    }
    return {name: _product(*shape) for name, shape in shapes.items()}


def _product(m: int, k: int, n: int, how: str) -> tuple[Timed, float]:
    inputs, _ = how.split("->")
    left, right = inputs.split(",")
    sizes = {"i": m, "j": k, "k": n}
    keys = jax.random.split(jax.random.key(0))
    a, b = (
        jax.random.normal(key, [sizes[axis] for axis in axes]) for key, axes in zip(keys, (left, right), strict=True)
    )
    multiply = jax.jit(lambda a, b: jnp.einsum(how, a, b, precision="highest"))
    flop = 2.0 * m * k * n
    times = max(1, round(_FLOP / flop))

    def run() -> float:
        start = time.perf_counter()
        for _ in range(times):
            result = multiply(a, b)
        result.block_until_ready()
        return time.perf_counter() - start

    run()
    return run, flop * times


def copy(megabytes: int = 512) -> tuple[Timed, float]:
    """(run, bytes read and written) of a copy that fits no cache."""
    array = jnp.arange(megabytes * 2**18, dtype=jnp.float32)
    negate = jax.jit(lambda x: -x)

    def run() -> float:
        start = time.perf_counter()
        negate(array).block_until_ready()
        return time.perf_counter() - start

    run()
    return run, 2.0 * array.nbytes

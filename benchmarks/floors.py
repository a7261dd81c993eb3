"""What the machine can do: float32 matrix products of the shapes used and of 2048 cubed, and a large copy.

    python -m benchmarks.floors CONDITIONS ROUNDS

prints one JSON line: product -> GFLOP/s of each round, and GB/s of the copy.
"""

import json
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

BATCH, PIXELS, WIDTH = 1000, 784, 256
_FLOP = 4e9  # a measurement repeats a product until it has done as much
COPY = "copy"
_COPIED = 2**27  # entries, which fit no cache


def products(conditions: int) -> dict[str, tuple[int, int, int, str]]:
    """Shapes of products as training does them: x W, x' g, and back through W'."""
    wide = WIDTH * conditions
    return {
        "2048 x 2048 x 2048": (2048, 2048, 2048, "ij,jk->ik"),
        "x W: 1000 x 784 x 256": (BATCH, PIXELS, WIDTH, "ij,jk->ik"),
        "x' g: 784 x 1000 x 256": (PIXELS, BATCH, WIDTH, "ji,jk->ik"),
        "h W: 1000 x 256 x 256": (BATCH, WIDTH, WIDTH, "ij,jk->ik"),
        "h' g: 256 x 1000 x 256": (WIDTH, BATCH, WIDTH, "ji,jk->ik"),
        "g W': 1000 x 256 x 256": (BATCH, WIDTH, WIDTH, "ij,kj->ik"),
        f"x W: 1000 x 784 x {wide}": (BATCH, PIXELS, wide, "ij,jk->ik"),
        f"x' g: 784 x 1000 x {wide}": (PIXELS, BATCH, wide, "ji,jk->ik"),
    }


def least(conditions: int, gflops: dict[str, float], m: int) -> float:
    """Seconds a student's step would take, were there only its necessary products, each as fast as alone."""
    on, back, hidden, hidden_back, inputs_back = list(gflops.values())[1:6]
    first, second, head = (2e-6 * size for size in (PIXELS * WIDTH, WIDTH**2, WIDTH * m))  # GFLOP with 1,000 rows
    answer = (first / on + (second + head) / hidden) / conditions
    heads = head / hidden + head / hidden_back + head / inputs_back
    return first / on + first / back + second / hidden + second / hidden_back + second / inputs_back + heads + answer


def product(m: int, k: int, n: int, how: str) -> tuple[Callable[[], jax.Array], float]:
    """A call of a product and its floating-point operations."""
    sizes = {"i": m, "j": k, "k": n}
    keys = jax.random.split(jax.random.key(0))
    left, right = how.partition("->")[0].split(",")
    a, b = (
        jax.random.normal(key, [sizes[axis] for axis in axes]) for key, axes in zip(keys, (left, right), strict=True)
    )
    multiply = jax.jit(lambda a, b: jnp.einsum(how, a, b, precision="highest"))
    return lambda: multiply(a, b), 2.0 * m * k * n


def main(conditions: int, rounds: int) -> None:
    """Measure everything in turn, round after round."""
    array = jnp.arange(_COPIED, dtype=jnp.float32)
    negate = jax.jit(jnp.negative)
    calls = {name: product(*shape) for name, shape in products(conditions).items()}
    calls[COPY] = lambda: negate(array), 2.0 * array.nbytes
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):  # the first round compiles
        for name, (call, amount) in calls.items():
            times = max(1, round(_FLOP / amount))
            start = time.perf_counter()
            for _ in range(times):
                result = call()
            result.block_until_ready()
            rates[name].append(amount * times / (time.perf_counter() - start) / 1e9)
    print(json.dumps({name: values[1:] for name, values in rates.items()}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

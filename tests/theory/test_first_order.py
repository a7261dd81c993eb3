"""Forward-mode derivatives at 1,000 rows, compiled, against reverse mode and against NumPy in float64.

From about 500 rows on, jaxlib 0.10.2 to 0.12.0.1 returned wrong compiled `jvp`s; see docs/traps.md.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sublim_jax.theory import first_order

ROWS, SIZES = 1000, (50, 40, 10)


def net(first_only):
    """Parameters, a displacement (of the first layer only, or of both) and inputs of an MLP."""
    rng = np.random.default_rng(int(first_only))
    params, moved = (
        {"first": rng.normal(size=SIZES[:2]) / 7, "last": rng.normal(size=SIZES[1:]) / 6} for _ in range(2)
    )
    if first_only:
        moved["last"] = np.zeros_like(moved["last"])
    return params, moved, rng.normal(size=(ROWS, SIZES[0]))


def outputs_of(params, x):
    return jax.nn.relu(x @ params["first"]) @ params["last"]


def pushed(params, moved, x):
    """J displacement of the net above, in NumPy."""
    hidden = x @ params["first"]
    return np.where(hidden > 0, x @ moved["first"], 0) @ params["last"] + np.maximum(hidden, 0) @ moved["last"]


def curvatures():
    """Curvatures by name, with M u in NumPy."""
    weights, seen = np.linspace(0, 1, SIZES[-1]), np.arange(SIZES[-1]) > 2

    def softmax(z, u):
        p = np.exp(z - z.max(1, keepdims=True)) * seen
        p /= p.sum(1, keepdims=True)
        return (p * u - p * (p * u).sum(1, keepdims=True)) / 4

    return {
        "squared": (first_order.squared(jnp.asarray(weights)), lambda z, u: 2 * weights * u),
        "softmax": (first_order.softmax(jnp.asarray(seen), 2.0), lambda z, u: softmax(z / 2, u)),
        "of_loss": (first_order.of_loss(lambda z, y: ((z - y) ** 2).mean(-1)), lambda z, u: 2 * u / SIZES[-1]),
    }


@pytest.mark.parametrize("first_only", [True, False])
@pytest.mark.parametrize("curvature", curvatures())
def test_leading_step_agrees_with_float64_and_with_reverse_mode(curvature, first_only):
    times, wanted_times = curvatures()[curvature]
    params, moved, x = net(first_only)
    single, direction, inputs = (jax.tree.map(jnp.float32, tree) for tree in (params, moved, x))
    compiled = jax.jit(lambda p, d, x: first_order.leading_step(lambda q: outputs_of(q, x), p, d, times))
    found = compiled(single, direction, inputs)
    u = pushed(params, moved, x)
    turned = wanted_times(outputs_of(jax.tree.map(np.asarray, params), x), u)
    np.testing.assert_allclose(found.quadratic, (u * turned).sum() / ROWS, rtol=1e-3)
    # The inner product of the step, which is a vjp, with the displacement is the same number.
    np.testing.assert_allclose(first_order.dot(found.step, direction), found.quadratic, rtol=1e-3)


@pytest.mark.parametrize("rows", [10, 500, 1000])
def test_first_order_jvp_of_margins_agrees_with_reverse_mode(rows):
    """The pattern of a language student's slopes: means over rows, along a gradient and along its signs."""
    params, moved, x = net(first_only=False)
    params, moved, x = jax.tree.map(jnp.float32, (params, moved, x[:rows]))

    def margins(params):
        mean = outputs_of(params, x).mean(0)
        return mean - (mean.sum() - mean) / (len(mean) - 1)

    for direction in (moved, jax.tree.map(jnp.sign, moved), {**moved, "last": jnp.zeros_like(moved["last"])}):
        forward = jax.jit(lambda p, d: jax.jvp(margins, (p,), (d,))[1])(params, direction)
        jacobian = jax.jit(jax.jacrev(margins))(params)
        reverse = sum(jnp.tensordot(jacobian[name], direction[name], 2) for name in direction)
        np.testing.assert_allclose(forward, reverse, rtol=1e-3, atol=1e-4)

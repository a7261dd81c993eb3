"""Scalar laws against simulations and SciPy, each also where it ends."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.statistics import cosine, draw, within
from scipy import integrate, stats

from sublim_jax import theory

# D6: counting


@pytest.mark.parametrize(("m", "images"), [(1, 20), (4, 10), (10, 6), (10, 8), (10, 20)])
def test_equations_per_unknown_are_the_share_recovered(m, images):
    """Independent equations: the smallest change that fits all logits, where gradient descent from 0 ends."""
    random, weights = draw(0), 80
    shares, errors = [], []
    for _ in range(60):
        jacobian, displacement = random.normal(size=(m * images, weights)), random.normal(size=weights)
        found = np.linalg.pinv(jacobian) @ (jacobian @ displacement)
        errors.append(np.abs(jacobian @ (found - displacement)).max())
        shares.append((found @ displacement) / (displacement @ displacement))
    assert (
        max(errors) < 1e-9
    )  # the student fits the teacher's logits on every image, also below one equation per unknown
    predicted = theory.equations(m, images, weights)
    if predicted < 1:
        within(shares, predicted)
    else:
        np.testing.assert_allclose(shares, 1, rtol=1e-9)


def test_equations_and_capacity_bits_do_not_overflow_under_jit():
    got = jax.jit(theory.equations)(jnp.int32(8192), jnp.int32(10**6), 266_752)
    np.testing.assert_allclose(got, 8192e6 / 266_752, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(theory.capacity_bits)(jnp.int32(8192), jnp.int32(10**6), 256), 8192e6 * 8)
    assert theory.capacity_bits(10, 1000, 1) == 0  # a logit with one level says nothing
    assert theory.capacity_bits(2, 3, 2) == 6


# D7: drift


@pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0, 9.0])
def test_drifted_orthogonal_to_the_beginning(ratio):
    head, drift = draw(3).normal(size=(2, 100, 2000))
    samples = cosine(head + np.sqrt(ratio) * drift, head)
    if ratio == 0:
        assert theory.drifted(0) == 1
    else:
        within(samples, theory.drifted(ratio))


@pytest.mark.parametrize("delta", [0.003, 0.02])
def test_half_width_is_where_a_drift_is_as_large_as_pytorchs_head(delta):
    d = int(theory.half_width(delta))
    random = draw(5)
    head = random.uniform(-1, 1, (100, 10 * min(d, 500))) / np.sqrt(d)
    within(cosine(head + delta * random.normal(size=head.shape), head), np.sqrt(0.5), errors=5)
    np.testing.assert_allclose(theory.drifted(3 * d * delta**2), np.sqrt(0.5), rtol=1e-3)


@pytest.mark.parametrize("cos", [0.05, 0.4, 0.99, 1.0])
def test_signed_step_keeps_a_constant_share_of_the_cosine(cos):
    target, noise = draw(6).normal(size=(2, 100, 4000))
    within(cosine(np.sign(cos * target + np.sqrt(1 - cos**2) * noise), target), theory.signed_step(cos))


# D8: the hard edge


@pytest.mark.parametrize(("m", "d"), [(100, 400), (400, 100), (300, 400), (10, 1000)])
def test_condition_number_of_large_random_heads(m, d):
    sizes = np.linalg.svd(draw(8).normal(size=(5, m, d)), compute_uv=False)
    np.testing.assert_allclose((sizes[:, 0] / sizes[:, -1]).mean(), theory.condition_number(m, d), rtol=0.08)
    assert jnp.isinf(theory.condition_number(m, m)) and jnp.isinf(theory.condition_number(1, 1))


# D9: erosion


@pytest.mark.parametrize("t", [0.0, 0.3, 1.416, 2.5])
def test_eroded_cosines_by_simulation_and_integral(t):
    random, size = draw(11), (50, 20_000)
    for weights, density, formula in (
        (random.normal(size=size), stats.norm(), theory.eroded_cosine_normal),
        (
            random.uniform(-1, 1, size) * np.sqrt(3),
            stats.uniform(-np.sqrt(3), 2 * np.sqrt(3)),
            theory.eroded_cosine_uniform,
        ),
    ):
        left = np.asarray(theory.eroded(jnp.asarray(weights, jnp.float32), t), np.float64)
        if t == 0:
            assert formula(t) == 1
            np.testing.assert_allclose(left, weights, rtol=1e-6)
        elif t > np.sqrt(3) and formula is theory.eroded_cosine_uniform:
            assert formula(t) == 0 and not left.any()
        else:
            within(cosine(left, weights), formula(t))
            top = min(density.support()[1], 12)
            inner = 2 * integrate.quad(lambda w, law=density: w * (w - t) * law.pdf(w), t, top)[0]
            square = 2 * integrate.quad(lambda w, law=density: (w - t) ** 2 * law.pdf(w), t, top)[0]
            np.testing.assert_allclose(formula(t), inner / np.sqrt(square), rtol=2e-5)


def test_eroded_cosine_at_its_known_value_far_out_and_in_eager_and_mapped_form():
    np.testing.assert_allclose(theory.eroded_cosine_normal(1.416), 0.66, atol=0.005)
    t = jnp.array([0.0, 1.0, 6.0, 50.0])
    got = jax.jit(jax.vmap(theory.eroded_cosine_normal))(t)
    tail, density = stats.norm.sf(6.0), stats.norm.pdf(6.0)
    np.testing.assert_allclose(got[2], 2 * tail / np.sqrt(2 * (37 * tail - 6 * density)), rtol=1e-3)
    assert np.isfinite(got).all() and got[3] == 0
    assert theory.eroded_cosine_uniform(50.0) == 0


def test_eroded_bounds_what_adam_leaves_of_a_head_without_gradient():
    weights, rate, steps = jnp.asarray(draw(12).normal(size=5000) / 16, jnp.float32), 3e-4, 295

    def decayed(coefficient):
        """Adam on nothing but the L2 gradient, as PyTorch's `weight_decay` of Adam."""
        optimizer = optax.chain(optax.add_decayed_weights(coefficient), optax.adam(rate))

        def step(state, _):
            update, opt = optimizer.update(jnp.zeros_like(weights), state[1], state[0])
            return (optax.apply_updates(state[0], update), opt), None

        return jnp.asarray(jax.lax.scan(step, (weights, optimizer.init(weights)), length=steps)[0][0])

    small, large = decayed(1e-4), decayed(1e-2)
    np.testing.assert_allclose(small, large, atol=rate)  # a hundred times the coefficient, the same head
    limit = theory.eroded(weights, rate * steps)
    assert (jnp.abs(small) >= jnp.abs(limit) - 1e-5).all()  # no weight loses more than lr T
    far = jnp.abs(weights) > 2 * rate * steps
    np.testing.assert_allclose(small[far], limit[far], atol=0.25 * rate * steps)
    assert (jnp.abs(weights)[far] - jnp.abs(small)[far] > 0.75 * rate * steps).all()
    left = cosine(np.asarray(small, np.float64), np.asarray(weights))
    assert float(theory.eroded_cosine_normal(rate * steps * 16)) + 0.05 < left < 1


# D5, D10: energy and chance


@pytest.mark.parametrize("classes", [2, 10, 47])
def test_chance_scatter_of_permuted_classes(classes):
    random = draw(15)
    hits = np.array([(random.permutation(classes) == np.arange(classes)).mean() for _ in range(5000)])
    within(hits, theory.chance(classes))
    within((hits - 1 / classes) ** 2, theory.chance_scatter(classes) ** 2)

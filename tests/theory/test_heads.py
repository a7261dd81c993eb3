"""Formulas of linear heads against simulations with a standard error, NumPy's least squares and SciPy's integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import cosine, draw, within
from scipy import integrate, stats

from sublim_jax import theory
from sublim_jax.engine.first_steps import float64


def f32(x):
    return jnp.asarray(np.asarray(x, np.float32))


# D3: compatibility


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 4.0])
def test_compatibility_is_the_mean_cosine_of_pytorchs_heads(share, ratio):
    random, d, columns, draws = draw(0), 256, 40, 50
    side = 1 / np.sqrt(d)
    head, fresh = random.uniform(-side, side, (2, draws, d * columns))
    noise = np.sqrt(ratio / (3 * d)) * random.normal(size=head.shape)
    samples = cosine(share * head + (1 - share) * fresh + noise, head)
    predicted = theory.compatibility(ratio, share)
    if ratio == 0 and share == 1:
        np.testing.assert_allclose(samples, 1, rtol=1e-12)
        assert predicted == 1
    else:
        within(samples, predicted)
        assert samples.std() < 1.1 / np.sqrt(d * columns)


def test_compatibility_at_edges_under_vmap_and_in_both_orders_of_limits():
    ratios = jnp.array([0.0, 1.0, 1e8])
    np.testing.assert_allclose(jax.jit(jax.vmap(theory.compatibility))(ratios), [1, np.sqrt(0.5), 1e-4], rtol=1e-6)
    assert theory.compatibility(0.0, 0.0) == 0
    small = 1e-3
    np.testing.assert_allclose(theory.compatibility(small), 1 - small / 2, atol=1e-6)


# D2: the first step


def step_cosines(seed, m, d, ratio=0.0, offset=0.0, along=0.0, draws=2000):
    """The latent gradient A_s'(A h_t - A_s h_0): inner products with the unit displacement, squared lengths."""
    random = draw(seed)
    displacement, h0 = np.zeros((2, d))
    displacement[0], h0[-1] = 1, offset * np.sqrt(1 - along**2)
    h0[0] += offset * along
    inner, square = [], []
    for _ in range(draws):
        teacher = random.normal(size=(m, d))
        student = teacher + np.sqrt(ratio) * random.normal(size=(m, d))
        g = student.T @ (teacher @ (h0 + displacement) - student @ h0)
        inner.append(g[0])
        square.append(g @ g)
    return np.array(inner), np.array(square)


@pytest.mark.parametrize(
    ("m", "d", "ratio", "offset", "along"),
    [
        (10, 64, 0.0, 0.0, 0.0),
        (10, 64, 1.0, 0.0, 0.0),
        (64, 16, 1.0, 2.0, 0.0),
        (12, 12, 0.5, 1.0, 0.6),
        (1, 8, 0.0, 5.0, 0.0),
    ],
)
def test_first_step_is_the_exact_ratio_of_moments(m, d, ratio, offset, along):
    inner, square = step_cosines(1, m, d, ratio, offset, along)
    ratio_of_moments = inner.mean() / np.sqrt(square.mean())
    blocks = [a.mean() / np.sqrt(b.mean()) for a, b in zip(inner.reshape(20, -1), square.reshape(20, -1), strict=True)]
    error = np.std(blocks, ddof=1) / np.sqrt(20)
    assert abs(ratio_of_moments - theory.first_step(m, d, ratio, offset, along)) < 4 * error
    assert error < 0.02


@pytest.mark.parametrize(("m", "d"), [(1, 1), (1, 2), (3, 20), (20, 20), (60, 20)])
def test_first_step_mean_is_of_a_beta_law(m, d):
    inner, square = step_cosines(5, m, d)
    samples = inner / np.sqrt(square)
    if d == 1:
        np.testing.assert_allclose(samples, 1, rtol=1e-12)
        assert theory.first_step_mean(m, d) == 1
        return
    assert stats.kstest(samples**2, stats.beta(m / 2, (d - 1) / 2).cdf).pvalue > 1e-3
    within(samples, theory.first_step_mean(m, d))
    within(samples**2, m / (m + d - 1))


def test_first_step_mean_keeps_its_digits_in_float32():
    for m, d in [(1, 2), (3, 256), (10, 11585)]:
        np.testing.assert_allclose(
            theory.first_step_mean(m, d), stats.beta(m / 2, (d - 1) / 2).expect(np.sqrt), rtol=2e-6
        )
    # for large m the cosine is sharp around the root mean square, below it by var / (8 mean^2) of the Beta law
    m, d = 8192, 11585
    beta = stats.beta(m / 2, (d - 1) / 2)
    expected = np.sqrt(beta.mean()) * (1 - beta.var() / (8 * beta.mean() ** 2))
    np.testing.assert_allclose(theory.first_step_mean(m, d), expected, rtol=1e-6)


@pytest.mark.parametrize("d", [16, 256])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_logits_needed_inverts_the_first_step(d, ratio):
    m = theory.logits_needed(0.3, d, ratio)
    np.testing.assert_allclose(theory.first_step(m, d, ratio), 0.3, rtol=1e-5)


# D5: the oracle


@pytest.mark.parametrize(("d", "columns", "hidden"), [(40, 7, 2), (12, 12, 0), (12, 30, 5), (30, 40, 25)])
def test_oracle_is_numpys_least_squares(d, columns, hidden):
    random = draw(7)
    seen = np.ones((2, columns), bool)
    seen[:, random.permutation(columns)[:hidden]] = False
    seen[1, seen[1].argmax()] = False  # of the second head one column less
    students, teacher = random.normal(size=(2, d, columns)), random.normal(size=(d, columns))
    start, goal = random.normal(size=(2, 5, d))
    gaps = goal @ np.stack([students[0], teacher]) - start @ students
    mapped = jax.jit(jax.vmap(theory.oracle, (0, 0, 0, None)))
    got = mapped(f32(students), jnp.asarray(seen), f32(gaps), f32(start))
    for index, mask in enumerate(seen):
        change = np.linalg.lstsq(students[index][:, mask].T, gaps[index][:, mask].T, rcond=None)[0].T
        np.testing.assert_allclose(got[index], start + change, atol=2e-3)
    inverse = np.linalg.pinv(students[0][:, seen[0]].T) @ students[0][:, seen[0]].T  # the head is the teacher's
    np.testing.assert_allclose(got[0], goal @ inverse + start @ (np.eye(d) - inverse), atol=2e-3)


def test_row_space_projects_on_what_is_seen_and_leaves_null_directions_out():
    random, d = draw(8), 20
    kernel = random.normal(size=(d, 8))
    kernel[:, 3] = kernel[:, 1] - 2 * kernel[:, 2]  # dependent
    seen = np.array([True] * 6 + [False] * 2)
    for one in (kernel, np.concatenate([kernel] * 4, 1)):  # tall and wide
        mask = np.tile(seen, one.shape[1] // 8)
        basis = np.asarray(theory.row_space(f32(one), jnp.asarray(mask)))
        assert basis.shape == (d, min(d, one.shape[1]))
        lengths = (basis**2).sum(0)
        assert ((lengths > 0.99).sum(), (lengths == 0).sum()) == (5, basis.shape[1] - 5)
        p = kernel[:, :6] @ np.linalg.pinv(kernel[:, :6])
        np.testing.assert_allclose(basis @ basis.T, p, atol=1e-5)


def test_factors_remake_the_seen_columns_and_are_zero_where_nothing_is_seen():
    random = draw(9)
    for shape in ((9, 4), (4, 9)):
        kernel, seen = f32(random.normal(size=shape)), jnp.arange(shape[1]) != 1
        left, size, right = theory.factors(kernel, seen)
        np.testing.assert_allclose((left * size[None]) @ right.T, jnp.where(seen[None], kernel, 0), atol=1e-5)
        none = jnp.zeros(shape[1], bool)
        assert not theory.row_space(kernel, none).any()
        start = f32(random.normal(size=(3, shape[0])))
        assert (theory.oracle(kernel, none, jnp.ones((3, shape[1])), start) == start).all()


@pytest.mark.parametrize(("m", "d"), [(3, 32), (16, 32), (32, 32), (50, 32)])
def test_recovered_energy_is_the_share_inside_a_random_row_space(m, d):
    random = draw(12)
    kernels = f32(random.normal(size=(500, d, m)))
    displacement = f32(np.eye(d)[:1] * 3)
    shares = np.asarray(
        jax.vmap(lambda k: theory.inside(theory.row_space(k, jnp.ones(m, bool)), displacement))(kernels)
    )
    if m >= d:
        np.testing.assert_allclose(shares, 1, rtol=1e-4)
        assert theory.recovered_energy(m, d) == theory.recovered_cosine(m, d) == 1
    else:
        within(shares, theory.recovered_energy(m, d))
        assert stats.kstest(shares, stats.beta(m / 2, (d - m) / 2).cdf).pvalue > 1e-3
        mean = stats.beta(m / 2, (d - m) / 2).expect(np.sqrt)
        within(np.sqrt(shares), mean)
        assert 1 - 1 / (4 * m) < mean / float(theory.recovered_cosine(m, d)) < 1


def test_inside_is_one_for_what_the_head_reads_zero_for_the_rest_and_nan_where_nothing_moved():
    kernel = f32(draw(13).normal(size=(6, 2)))
    basis = theory.row_space(kernel, jnp.ones(2, bool))
    x = f32(draw(14).normal(size=(5, 6)))
    np.testing.assert_allclose(theory.inside(basis, x @ basis @ basis.T), 1, rtol=1e-5)
    assert theory.inside(basis, x - x @ basis @ basis.T) < 1e-10
    assert jnp.isnan(theory.inside(basis, jnp.zeros((5, 6))))


# D4: noise on the class head


def integral(logits, scale, label):
    """Pr[argmax = label] by adaptive quadrature in double precision."""
    gaps = np.delete(logits[label] - logits, label) / scale
    peak = np.clip(-gaps.min(), -8, 8)
    value, _ = integrate.quad(
        lambda g: stats.norm.pdf(g) * np.prod(stats.norm.cdf(gaps + g)), -12, 12, points=[peak], limit=200, epsabs=1e-12
    )
    return value


@pytest.mark.parametrize("classes", [2, 10, 47])
def test_noisy_head_is_exactly_scipys_integral(classes):
    random, n = draw(16), 12
    logits, labels = random.normal(size=(n, classes)) * 3, random.integers(0, classes, n)
    scales = np.geomspace(0.02, 30, n)
    expected = np.mean([integral(z, s, y) for z, s, y in zip(logits, scales, labels, strict=True)])
    lower, got, upper = jax.jit(theory.noisy_head)(f32(logits), f32(scales), jnp.asarray(labels))
    np.testing.assert_allclose(got, expected, atol=3e-6)
    if classes == 2:  # the bounds are the accuracy, Phi(gap / (sqrt 2 scale))
        np.testing.assert_allclose([lower, upper], [got, got], rtol=1e-5)


def test_noisy_head_bounds_enclose_and_neither_is_the_accuracy_at_large_noise():
    logits, ratios, noisy_head = f32(draw(18).normal(size=(200, 10)) * 2), [], jax.jit(theory.noisy_head)
    for scale in (0.01, 0.1, 1.0, 10.0, 1e4):
        lower, exact, upper = noisy_head(logits, jnp.full(200, scale), logits.argmax(1))
        assert -1e-6 <= lower <= exact + 1e-6 and exact <= upper + 1e-6
        ratios.append(float(upper - lower))
    assert ratios[0] < 0.01 < 0.4 < ratios[-1]  # tight for small noise, useless for large
    np.testing.assert_allclose([exact, upper, lower], [1 / 10, 0.5, 0], atol=1e-3)


def test_noisy_head_without_noise_is_the_plain_accuracy_and_maps_over_levels():
    random, n = draw(20), 60
    logits, labels = f32(random.normal(size=(n, 10))), jnp.asarray(random.integers(0, 10, n))
    noisy_head = jax.jit(theory.noisy_head)
    plain = (logits.argmax(1) == labels).mean()
    some = jnp.where(jnp.arange(n) == 3, 0.0, 1.0)
    scales = jnp.stack([jnp.zeros(n), jnp.full(n, 1e-30), some])
    alone = [noisy_head(logits, scale, labels) for scale in scales]
    np.testing.assert_allclose(alone[:2], plain, atol=1e-6)
    assert np.isfinite(alone[2]).all()
    together = jax.vmap(noisy_head, (None, 0, None))(logits, scales, labels)
    np.testing.assert_allclose(np.transpose(together), alone, rtol=1e-5)
    tied = theory.noisy_head(jnp.zeros((2, 3)), jnp.zeros(2), jnp.array([0, 1]))  # argmax takes the first
    np.testing.assert_allclose(tied, 0.5)


def test_noisy_head_and_oracle_stay_in_double_precision():
    with float64(True):
        random = draw(22)
        logits, labels = random.normal(size=(4, 10)), np.array([0, 1, 2, 3])
        got = theory.noisy_head(jnp.asarray(logits), jnp.ones(4), jnp.asarray(labels)).exact
        expected = np.mean([integral(z, 1.0, y) for z, y in zip(logits, labels, strict=True)])
        np.testing.assert_allclose(got, expected, rtol=1e-9)
        kernel, start, gap = random.normal(size=(6, 4)), random.normal(size=(2, 6)), random.normal(size=(2, 4))
        change = np.linalg.lstsq(kernel.T, gap.T, rcond=None)[0].T
        exact = theory.oracle(jnp.asarray(kernel), jnp.ones(4, bool), jnp.asarray(gap), jnp.asarray(start))
        np.testing.assert_allclose(exact, start + change, rtol=1e-9)

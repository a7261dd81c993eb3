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


def test_first_step_needs_its_last_term_where_logits_outnumber_the_latent():
    m, d, ratio, offset = 64, 16, 1.0, 2.0
    inner, square = step_cosines(2, m, d, ratio, offset)
    blocks = [a.mean() / np.sqrt(b.mean()) for a, b in zip(inner.reshape(20, -1), square.reshape(20, -1), strict=True)]
    without = np.sqrt(m / (m + 1 + d * (1 + ratio) + d * ratio * offset**2 * (1 + ratio)))
    assert without - np.mean(blocks) > 10 * np.std(blocks, ddof=1) / np.sqrt(20)


@pytest.mark.parametrize(("m", "d", "ratio"), [(10, 256, 0.0), (50, 256, 1.0), (250, 256, 0.0)])
def test_first_step_is_near_the_mean_cosine(m, d, ratio):
    inner, square = step_cosines(3, m, d, ratio, draws=400)
    samples = inner / np.sqrt(square)
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    predicted = float(theory.first_step(m, d, ratio))
    assert abs(samples.mean() - predicted) < 4 * error + predicted * max(1 / (4 * m), 1 / (m + d))


@pytest.mark.parametrize(("m", "d"), [(10, 256), (50, 256), (64, 256), (250, 256), (400, 40)])
def test_first_step_is_off_the_exact_mean_by_what_the_beta_law_says(m, d):
    n = m + d
    off = float(theory.first_step(m, d) / theory.first_step_mean(m, d)) - 1
    np.testing.assert_allclose(off, d / (4 * m * n) - 1 / n, atol=1 / m**2 + 1e-6)
    assert off > 0 if m < d / 4 else off < 2e-5


def test_first_step_does_not_hold_at_one_logit_where_the_exact_mean_does():
    d = 256
    inner, square = step_cosines(4, 1, d, draws=4000)
    samples = np.abs(inner) / np.sqrt(square)
    within(samples, theory.first_step_mean(1, d))
    within(samples, np.sqrt(2 / np.pi / d))  # at d = 256 the two differ by a thousandth
    error = samples.std() / np.sqrt(len(samples))
    assert float(theory.first_step(1, d)) - samples.mean() > 10 * error


@pytest.mark.parametrize(("m", "d"), [(1, 1), (1, 2), (3, 20), (20, 20), (60, 20)])
def test_squared_cosine_of_the_first_step_is_beta_distributed(m, d):
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


def test_independent_heads_drive_nowhere_in_the_mean():
    random, m, d = draw(6), 10, 64
    teacher, student = random.normal(size=(2, 2000, m, d))
    displacement = np.eye(d)[0]
    g = np.einsum("nmd,nm->nd", student, teacher @ displacement)
    within(cosine(g, displacement[None]), 0)
    assert theory.compatibility(0.0, 0.0) == 0


@pytest.mark.parametrize("d", [16, 256])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_logits_needed_inverts_the_first_step(d, ratio):
    m = theory.logits_needed(0.3, d, ratio)
    np.testing.assert_allclose(theory.first_step(m, d, ratio), 0.3, rtol=1e-5)


# D5: the oracle


@pytest.mark.parametrize(("d", "columns", "hidden"), [(40, 7, 2), (12, 12, 0), (12, 30, 5), (30, 40, 25)])
@pytest.mark.parametrize("shared", [True, False])
def test_oracle_is_numpys_least_squares(d, columns, hidden, shared):
    random, n = draw(7), 5
    seen = np.ones(columns, bool)
    seen[random.permutation(columns)[:hidden]] = False
    student = random.normal(size=(d, columns))
    teacher = student if shared else random.normal(size=(d, columns))
    start, goal = random.normal(size=(2, n, d))
    gap = goal @ teacher - start @ student
    change = np.linalg.lstsq(student[:, seen].T, gap[:, seen].T, rcond=None)[0].T
    got = jax.jit(theory.oracle)(f32(student), jnp.asarray(seen), f32(gap), f32(start))
    np.testing.assert_allclose(got, start + change, atol=2e-3)
    if shared:
        p = np.linalg.pinv(student[:, seen].T) @ student[:, seen].T
        np.testing.assert_allclose(got, goal @ p + start @ (np.eye(d) - p), atol=2e-3)


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
    for shape in ((9, 4), (4, 9), (6, 6)):
        kernel, seen = f32(random.normal(size=shape)), jnp.arange(shape[1]) != 1
        left, size, right = theory.factors(kernel, seen)
        np.testing.assert_allclose((left * size[None]) @ right.T, jnp.where(seen[None], kernel, 0), atol=1e-5)
        none = jnp.zeros(shape[1], bool)
        assert not theory.row_space(kernel, none).any()
        start = f32(random.normal(size=(3, shape[0])))
        assert (theory.oracle(kernel, none, jnp.ones((3, shape[1])), start) == start).all()


def test_oracle_and_basis_map_over_heads_and_seen_columns():
    random = draw(10)
    kernels, start = f32(random.normal(size=(3, 10, 6))), f32(random.normal(size=(4, 10)))
    gap, seen = f32(random.normal(size=(4, 6))), jnp.arange(6)[None] < jnp.array([1, 4, 6])[:, None]
    all_at_once = jax.vmap(theory.oracle, (0, 0, None, None))(kernels, seen, gap, start)
    for index in range(3):
        alone = theory.oracle(kernels[index], seen[index], gap, start)
        np.testing.assert_allclose(all_at_once[index], alone, atol=1e-5)


def test_oracle_is_where_gradient_descent_on_the_latent_ends():
    random, d, m = draw(11), 8, 4
    kernel, start, gap = random.normal(size=(d, m)), random.normal(size=(3, d)), random.normal(size=(3, m))
    latent = start.copy()
    rate = 1 / np.linalg.norm(kernel, 2) ** 2
    for _ in range(5000):
        latent -= rate * ((latent - start) @ kernel - gap) @ kernel.T
    got = theory.oracle(f32(kernel), jnp.ones(m, bool), f32(gap), f32(start))
    np.testing.assert_allclose(got, latent, atol=1e-4)


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


def test_with_enough_logits_of_an_independent_head_the_oracle_is_farther_from_the_teacher_than_its_start():
    """With m >= d every logit of a head that is not the teacher's is a wrong constraint, and least squares obeys."""
    random, d, m = draw(15), 16, 64
    start, goal = np.zeros((20, d)), random.normal(size=(20, d))
    cosines, energies = [], []
    for _ in range(200):
        teacher, student = random.normal(size=(2, d, m))
        got = np.asarray(theory.oracle(f32(student), jnp.ones(m, bool), f32(goal @ teacher), f32(start)))
        cosines.append(cosine(got, goal).mean())
        energies.append(((got - goal) ** 2).sum() / (goal**2).sum())
    within(cosines, 0)
    assert np.mean(energies) > 1 + 4 * np.std(energies) / np.sqrt(200)


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
def test_exact_accuracy_is_scipys_integral(classes):
    random, n = draw(16), 12
    logits, labels = random.normal(size=(n, classes)) * 3, random.integers(0, classes, n)
    scales = np.geomspace(0.02, 30, n)
    expected = np.mean([integral(z, s, y) for z, s, y in zip(logits, scales, labels, strict=True)])
    got = jax.jit(theory.noisy_head)(f32(logits), f32(scales), jnp.asarray(labels))
    np.testing.assert_allclose(got.exact, expected, atol=3e-6)


def test_exact_accuracy_is_what_drawn_heads_have():
    """The whole claim: noise on kernel and bias of a head that reads a fixed latent, averaged over heads."""
    random, n, d, classes = draw(17), 300, 20, 10
    latent, head, bias = random.normal(size=(n, d)), random.normal(size=(d, classes)), random.normal(size=classes)
    logits = latent @ head + bias
    labels = np.where(random.random(n) < 0.8, logits.argmax(1), random.integers(0, classes, n))
    for sigma in (0.05, 0.5, 2.0):
        scale = sigma * np.sqrt(1 + (latent**2).sum(1))
        bounds = theory.noisy_head(f32(logits), f32(scale), jnp.asarray(labels))
        samples = []
        for _ in range(400):
            noisy = (
                latent @ (head + sigma * random.normal(size=head.shape)) + bias + sigma * random.normal(size=classes)
            )
            samples.append((noisy.argmax(1) == labels).mean())
        within(samples, bounds.exact)
        assert bounds.lower < bounds.exact < bounds.upper


def test_bounds_enclose_and_neither_is_the_accuracy_at_large_noise():
    random, n, classes = draw(18), 200, 10
    logits = f32(random.normal(size=(n, classes)) * 2)
    labels = logits.argmax(1)
    ratios = []
    for scale in (0.01, 0.1, 1.0, 10.0, 1e4):
        lower, exact, upper = theory.noisy_head(logits, jnp.full(n, scale), labels)
        assert -1e-6 <= lower <= exact + 1e-6 and exact <= upper + 1e-6
        ratios.append(float(upper - lower))
    assert ratios[0] < 0.01 < 0.4 < ratios[-1]  # tight for small noise, useless for large
    np.testing.assert_allclose([exact, upper, lower], [1 / classes, 0.5, 0], atol=1e-3)


def test_bounds_are_the_accuracy_with_two_classes():
    logits, labels = f32(draw(19).normal(size=(50, 2))), jnp.zeros(50, int)
    lower, exact, upper = theory.noisy_head(logits, jnp.full(50, 0.7), labels)
    np.testing.assert_allclose([lower, upper], [exact, exact], rtol=1e-5)


def test_without_noise_all_three_are_the_plain_accuracy_and_one_zero_spoils_nothing():
    random, n = draw(20), 60
    logits, labels = f32(random.normal(size=(n, 10))), jnp.asarray(random.integers(0, 10, n))
    plain = (logits.argmax(1) == labels).mean()
    for scale in (0.0, 1e-30):
        np.testing.assert_allclose(theory.noisy_head(logits, jnp.full(n, scale), labels), plain, atol=1e-6)
    some = jnp.where(jnp.arange(n) == 3, 0.0, 1.0)
    assert np.isfinite(theory.noisy_head(logits, some, labels)).all()
    tied = theory.noisy_head(jnp.zeros((2, 3)), jnp.zeros(2), jnp.array([0, 1]))  # argmax takes the first
    np.testing.assert_allclose(tied, 0.5)


def test_noisy_head_maps_over_levels_of_noise():
    random, n = draw(21), 40
    logits, labels = f32(random.normal(size=(n, 5))), jnp.asarray(random.integers(0, 5, n))
    scales = jnp.array([0.0, 0.5, 2.0])[:, None] * jnp.ones(n)[None]
    together = jax.vmap(theory.noisy_head, (None, 0, None))(logits, scales, labels)
    for index in range(3):
        alone = theory.noisy_head(logits, scales[index], labels)
        np.testing.assert_allclose([field[index] for field in together], alone, rtol=1e-5)


def test_double_precision_stays_double():
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

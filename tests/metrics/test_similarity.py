"""Similarities against SciPy; CKA against its closed forms and against the n x n formula in double precision."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist

from sublim_jax.metrics import similarity

RNG = np.random.default_rng(0)


def features(n, d):
    return jnp.asarray(RNG.normal(size=(n, d)).astype(np.float32) + 0.5)


def gram_cka_debiased(x, y):
    """Song et al. 2012, equation 5, from Gram matrices, in float64."""

    def hsic(k, m):
        n = len(k)
        return np.trace(k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ m.sum(0)) / (n - 2)

    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_cka_agrees_with_the_gram_formulas():
    x = features(60, 8)
    for y in (x[:, :5] + 0.7 * features(60, 5), features(60, 40), 3 * x + 2):
        xc, yc = (np.asarray(z, np.float64) - np.asarray(z, np.float64).mean(0) for z in (x, y))
        plain = np.sum((xc.T @ yc) ** 2) / np.linalg.norm(xc.T @ xc) / np.linalg.norm(yc.T @ yc)
        np.testing.assert_allclose(similarity.cka(x, y), plain, rtol=1e-4)
        np.testing.assert_allclose(similarity.cka_debiased(x, y), gram_cka_debiased(x, y), rtol=1e-3, atol=1e-5)


def test_rsa_is_spearmans_correlation_of_pearson_distances():
    x = features(80, 12)
    y = jnp.concatenate([x[:, :4], features(80, 9)], axis=1)
    distances = [pdist(np.asarray(z, float), "correlation") for z in (x, y)]
    wanted = stats.spearmanr(distances[0], distances[1]).statistic
    np.testing.assert_allclose(similarity.rsa(x, y), wanted, atol=1e-4)
    np.testing.assert_allclose(similarity.rsa(x, 3 * x + 2), 1, atol=1e-4)


@pytest.mark.parametrize(("p", "q"), [(6, 9), (90, 70)])
def test_procrustes_is_what_scipys_best_rotation_reaches(p, q):
    x, y = features(40, p), features(40, q)
    wide = max(p, q)  # SciPy wants equal widths; columns of zeros change neither norms nor traces
    a, b = (
        np.pad(z - z.mean(0), ((0, 0), (0, wide - z.shape[1]))) for z in (np.asarray(x, float), np.asarray(y, float))
    )
    _, scale = orthogonal_procrustes(a, b)
    np.testing.assert_allclose(similarity.procrustes(x, y), scale / np.linalg.norm(a) / np.linalg.norm(b), rtol=1e-4)


def test_r_squared_is_the_explained_variance_without_a_fit():
    wanted = features(50, 4)
    assert similarity.r_squared(wanted, wanted) == 1
    np.testing.assert_allclose(similarity.r_squared(jnp.broadcast_to(wanted.mean(0), (50, 4)), wanted), 0, atol=1e-6)
    left = 0.09 * 200 / ((np.asarray(wanted, float) - np.asarray(wanted, float).mean(0)) ** 2).sum()
    np.testing.assert_allclose(similarity.r_squared(wanted + 0.3, wanted), 1 - left, rtol=1e-4)


def test_cosine_and_distance_of_two_vectors():
    x, y = jnp.array([3.0, 4.0]), jnp.array([4.0, 3.0])
    np.testing.assert_allclose(similarity.cosine(x, y), 24 / 25, rtol=1e-6)
    np.testing.assert_allclose(similarity.distance(x, y), np.sqrt(2) / 5, rtol=1e-6)
    assert similarity.distance(x, x) == 0


@pytest.mark.parametrize("measure", [similarity.cka, similarity.cka_debiased, similarity.rsa, similarity.procrustes])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, 1e8])
def test_similarity_of_constant_features_is_undefined(measure, constant):
    x = jnp.full((50, 7), constant, jnp.float32)
    for last_place in (0, 2e-7):  # also where two orders of summation differ in the last place
        y = x.at[::2].multiply(1 + last_place)
        assert np.isnan(measure(y, features(50, 4))) and np.isnan(measure(features(50, 4), y))
        assert np.isnan(measure(y, y))


def test_rsa_of_one_feature_is_undefined():
    assert np.isnan(similarity.rsa(features(60, 1), features(60, 1)))
    assert np.isnan(similarity.rsa(features(2, 5), features(2, 5)))  # one pair has no order


@pytest.mark.parametrize("dead", [0.0, 0.3])
def test_rsa_leaves_out_images_without_a_dissimilarity(dead):
    rng = np.random.default_rng(3)
    x, y = (rng.normal(size=(80, 12)).astype(np.float32) for _ in range(2))
    alive = np.arange(80) >= 24
    wanted = stats.spearmanr(*(pdist(z[alive].astype(float), "correlation") for z in (x, y))).statistic
    x[~alive] = dead  # in one of the nets
    np.testing.assert_allclose(similarity.rsa(x, y), wanted, atol=1e-5)
    y[~alive] = dead  # in both
    np.testing.assert_allclose(similarity.rsa(x, y), wanted, atol=1e-5)
    x[24] = np.nan
    assert np.isnan(similarity.rsa(x, y))


@pytest.mark.parametrize("values", [2, 3])
def test_rsa_gives_equal_dissimilarities_their_mean_rank(values):
    """Features of few values have many equal dissimilarities, which float32 computes with different rounding."""
    rng = np.random.default_rng(values)
    x, y = (rng.integers(0, values, (90, 9)) for _ in range(2))
    defined = (x.std(1) > 0) & (y.std(1) > 0)
    exact = [np.round(pdist(z[defined].astype(float), "correlation"), 9) for z in (x, y)]
    found = similarity.rsa(x.astype(np.float32) * 0.1, y.astype(np.float32) * 0.7)
    np.testing.assert_allclose(found, stats.spearmanr(*exact).statistic, atol=1e-5)


def test_r_squared_and_distance_without_a_reference_are_undefined():
    assert np.isnan(similarity.r_squared(features(9, 2), jnp.full((9, 2), 0.3)))
    assert np.isnan(similarity.distance(jnp.zeros(3), jnp.ones(3)))
    assert np.isnan(similarity.cosine(jnp.zeros(3), jnp.ones(3)))

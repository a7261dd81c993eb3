"""CKA against its closed forms and against the n x n formula in double precision."""

import jax.numpy as jnp
import numpy as np
import pytest

from sublim_jax import similarity

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


@pytest.mark.parametrize("cka", [similarity.cka, similarity.cka_debiased])
def test_cka_is_one_for_rotated_scaled_and_shifted_features(cka):
    x = features(200, 6)
    rotation, _ = np.linalg.qr(RNG.normal(size=(6, 6)))
    y = jnp.asarray((3 * np.asarray(x) @ rotation + 2).astype(np.float32))
    np.testing.assert_allclose(cka(x, x), 1, rtol=1e-5)
    np.testing.assert_allclose(cka(x, y), 1, rtol=1e-4)
    assert cka(x, features(200, 4)) < 0.2


def test_cka_agrees_with_the_gram_formulas():
    x = features(300, 8)
    y = x[:, :5] + 0.7 * features(300, 5)
    xc, yc = (np.asarray(z, np.float64) - np.asarray(z, np.float64).mean(0) for z in (x, y))
    plain = np.sum((xc.T @ yc) ** 2) / np.linalg.norm(xc.T @ xc) / np.linalg.norm(yc.T @ yc)
    np.testing.assert_allclose(similarity.cka(x, y), plain, rtol=1e-4)
    np.testing.assert_allclose(similarity.cka_debiased(x, y), gram_cka_debiased(x, y), rtol=1e-3)


def test_debiased_cka_of_independent_features_is_zero_where_plain_cka_is_not():
    pairs = [(features(60, 40), features(60, 40)) for _ in range(30)]
    plain = np.array([similarity.cka(x, y) for x, y in pairs])
    debiased = np.array([similarity.cka_debiased(x, y) for x, y in pairs])
    assert np.mean(plain) > 0.3
    assert abs(np.mean(debiased)) < 4 * np.std(debiased) / np.sqrt(30) + 1e-3


def test_cosine_and_distance():
    x, y = jnp.array([3.0, 4.0]), jnp.array([4.0, 3.0])
    np.testing.assert_allclose(similarity.cosine(x, y), 24 / 25, rtol=1e-6)
    np.testing.assert_allclose(similarity.distance(x, y), np.sqrt(2) / 5, rtol=1e-6)
    assert similarity.distance(x, x) == 0

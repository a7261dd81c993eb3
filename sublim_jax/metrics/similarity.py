"""Similarity of two representations x [n, p] and y [n, q] of the same n examples, or of two weight tensors."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def cka(x: Float[Array, "n p"], y: Float[Array, "n q"]) -> Float[Array, ""]:
    """Linear centred kernel alignment, in [0, 1]; NaN where a representation is constant.

    ||Xc'Yc||^2 / (||Xc'Xc|| ||Yc'Yc||), Frobenius norms of centred features. Source: Kornblith et al. 2019, section 3.
    """
    x, y = _centred(x), _centred(y)
    return _square(x @ y.T) / jnp.sqrt(_square(x @ x.T) * _square(y @ y.T))


def cka_debiased(x: Float[Array, "n p"], y: Float[Array, "n q"]) -> Float[Array, ""]:
    """Linear CKA from the unbiased HSIC estimator: 0 in expectation for independent features at any n and width.

    Computed from features in O(n p q), without an n x n Gram matrix. May be slightly negative. Needs n > 3. Source:
    Song et al. 2012, equation 5; Murphy et al. 2024.
    """
    x, y = _centred(x), _centred(y)  # the estimator does not change under translation; float32 likes small numbers
    return _hsic(x, y) / jnp.sqrt(_hsic(x, x) * _hsic(y, y))


def _hsic(x: Float[Array, "p n"], y: Float[Array, "q n"]) -> Float[Array, ""]:
    """n(n-3) times the unbiased HSIC of the linear kernels K = X'X, L = Y'Y with their diagonals set to zero."""
    n = x.shape[1]
    x_diagonal, y_diagonal = (x**2).sum(0), (y**2).sum(0)
    x_rows, y_rows = x.sum(1) @ x - x_diagonal, y.sum(1) @ y - y_diagonal  # K1 and L1
    trace = _square(x @ y.T) - x_diagonal @ y_diagonal
    corner = x_rows.sum() * y_rows.sum() / ((n - 1) * (n - 2))
    return trace + corner - 2 * (x_rows @ y_rows) / (n - 2)


def rsa(x: Float[Array, "n p"], y: Float[Array, "n q"]) -> Float[Array, ""]:
    """Representational similarity: Spearman's correlation of the two nets' dissimilarities between pairs of examples.

    The dissimilarity of two examples is 1 - Pearson's correlation of their features. Ties are ranked in the order of
    the pairs, not by mean rank; real representations have none. Takes O(n^2) memory. Source: Kriegeskorte et al. 2008.
    """
    a, b = (_ranks(_dissimilarities(features)) for features in (x, y))
    return cosine(a - a.mean(), b - b.mean())


def _dissimilarities(x: Float[Array, "n p"]) -> Float[Array, " pairs"]:
    """1 - Pearson's correlation of every pair of rows."""
    x = x - x.mean(1, keepdims=True)
    x = x / jnp.sqrt((x**2).sum(1, keepdims=True))
    return (1 - x @ x.T)[jnp.triu_indices(len(x), 1)]


def _ranks(values: Float[Array, " n"]) -> Float[Array, " n"]:
    order = jnp.argsort(values)
    return jnp.zeros_like(values).at[order].set(jnp.arange(len(values), dtype=values.dtype))


def procrustes(x: Float[Array, "n p"], y: Float[Array, "n q"]) -> Float[Array, ""]:
    """Similarity of two centred representations up to a rotation, in [0, 1]; 1 = equal up to rotation and scale.

    ||Xc'Yc||_* / (||Xc||_F ||Yc||_F) with the nuclear norm; the Procrustes distance of representations of norm 1 is
    sqrt(2 - 2 similarity). Source: Williams et al. 2021, section 2.
    """
    x, y = _centred(x), _centred(y)
    common = _thin(x) @ _thin(y).T
    return jnp.linalg.svd(common, compute_uv=False).sum() / jnp.sqrt(_square(x) * _square(y))


def _thin(x: Float[Array, "p n"]) -> Float[Array, "q n"]:
    """A matrix with the same Gram matrix of examples and at most as many features as examples."""
    return jnp.linalg.qr(x, mode="r") if x.shape[0] > x.shape[1] else x


def r_squared(predicted: Float[Array, "n p"], target: Float[Array, "n p"]) -> Float[Array, ""]:
    """Fraction of the variance of `target`, all columns together, that `predicted` explains without any fit; <= 1.

    1 - ||target - predicted||^2 / ||target - mean(target)||^2; below 0 where the mean is a better prediction.
    """
    return 1 - _square(target - predicted) / _square(_centred(target))


def cosine(x: Float[Array, "*batch d"], y: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Cosine of the angle between vectors along the last axis; NaN where one is zero."""
    return (x * y).sum(-1) / jnp.sqrt((x**2).sum(-1) * (y**2).sum(-1))


def distance(x: Float[Array, "*batch d"], y: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Relative distance ||x - y|| / ||x|| along the last axis."""
    return jnp.sqrt(((x - y) ** 2).sum(-1) / (x**2).sum(-1))


def _centred(x: Float[Array, "n p"]) -> Float[Array, "p n"]:
    """Centred features with examples in columns, the nets' memory layout: products then need no transpose."""
    return x.T - x.mean(0)[:, None]


def _square(x: Float[Array, "p q"]) -> Float[Array, ""]:
    return (x**2).sum()

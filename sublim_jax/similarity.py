"""How alike two representations or two weight tensors are."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def cka(x: Float[Array, "n p"], y: Float[Array, "n q"]) -> Float[Array, ""]:
    """Linear centred kernel alignment of two representations of the same n examples, in [0, 1].

    ||Xc'Yc||^2 / (||Xc'Xc|| ||Yc'Yc||), Frobenius norms of centred features. NaN where a representation is constant.
    Source: Kornblith et al. 2019, section 3.
    """
    x, y = _centred(x), _centred(y)
    return _square(x.T @ y) / jnp.sqrt(_square(x.T @ x) * _square(y.T @ y))


def cka_debiased(x: Float[Array, "n p"], y: Float[Array, "n q"]) -> Float[Array, ""]:
    """Linear CKA from the unbiased HSIC estimator: 0 in expectation for independent features at any n and width.

    Computed from features in O(n p q), never forming an n x n Gram matrix. May be slightly negative. Needs n > 3.
    Source: Song et al. 2012, equation 5; Murphy et al. 2024.
    """
    x, y = _centred(x), _centred(y)  # the estimator does not change under translation; float32 likes small numbers
    return _hsic(x, y) / jnp.sqrt(_hsic(x, x) * _hsic(y, y))


def _hsic(x: Float[Array, "n p"], y: Float[Array, "n q"]) -> Float[Array, ""]:
    """n(n-3) times the unbiased HSIC of the linear kernels K = XX', L = YY' with their diagonals set to zero."""
    n = len(x)
    x_diagonal, y_diagonal = (x**2).sum(-1), (y**2).sum(-1)
    x_rows, y_rows = x @ x.sum(0) - x_diagonal, y @ y.sum(0) - y_diagonal  # K1 and L1
    trace = _square(x.T @ y) - x_diagonal @ y_diagonal
    corner = x_rows.sum() * y_rows.sum() / ((n - 1) * (n - 2))
    return trace + corner - 2 * (x_rows @ y_rows) / (n - 2)


def cosine(x: Float[Array, "*batch d"], y: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Cosine of the angle between vectors along the last axis; NaN where one is zero."""
    return (x * y).sum(-1) / jnp.sqrt((x**2).sum(-1) * (y**2).sum(-1))


def distance(x: Float[Array, "*batch d"], y: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Relative distance ||x - y|| / ||x|| along the last axis."""
    return jnp.sqrt(((x - y) ** 2).sum(-1) / (x**2).sum(-1))


def _centred(x: Float[Array, "n p"]) -> Float[Array, "n p"]:
    return x - x.mean(0, keepdims=True)


def _square(x: Float[Array, "p q"]) -> Float[Array, ""]:
    return (x**2).sum()

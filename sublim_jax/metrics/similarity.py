"""Similarity of two representations x [n, p] and y [n, q] of the same n examples, or of two weight tensors.

Every measure is the same for 1e-12 x as for x: vectors are multiplied by a power of two before they are squared.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_ROUNDING = 8  # units in the last place within which numbers count as equal


def cka(x: Float[Array, "n p"], y: Float[Array, "n q"]) -> Float[Array, ""]:
    """Linear centred kernel alignment, in [0, 1]; NaN where a representation is constant.

    ||Xc'Yc||^2 / (||Xc'Xc|| ||Yc'Yc||), Frobenius norms of centred features. Source: Kornblith et al. 2019, section 3.
    """
    x, y = _centred(x), _centred(y)
    return _ratio(_square(x @ y.T), jnp.sqrt(_square(x @ x.T) * _square(y @ y.T)))


def cka_debiased(x: Float[Array, "n p"], y: Float[Array, "n q"]) -> Float[Array, ""]:
    """Linear CKA from the unbiased HSIC estimator: 0 in expectation for independent features at any n and width.

    Computed from features in O(n p q), without an n x n Gram matrix. May be slightly negative. NaN for n <= 3 and where
    a representation is constant. Source: Song et al. 2012, equation 5; Murphy et al. 2024.
    """
    if len(x) <= 3:
        return jnp.full((), jnp.nan, x.dtype)
    x, y = _centred(x), _centred(y)  # the estimator does not change under translation; float32 likes small numbers
    square = _hsic(x, x) * _hsic(y, y)
    return _ratio(_hsic(x, y), jnp.sqrt(jnp.maximum(square, 0)))


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

    The dissimilarity of two examples is 1 - Pearson's correlation of their features, undefined for an example whose
    features are all equal (within rounding) in one of the nets, for instance because every unit is dead. Such examples
    are left out of both nets. Dissimilarities that are equal within rounding have the mean of their ranks. NaN where
    fewer than three examples are left, or where all dissimilarities of a net are equal; therefore always for one
    feature. Takes O(n^2) memory. Source: Kriegeskorte et al. 2008.
    """
    defined = ~(_is_constant(x, 1) | _is_constant(y, 1))
    row, column = jnp.triu_indices(len(x), 1)
    pairs = defined[row] & defined[column]
    ours, theirs = (_dissimilarities(features)[row, column] for features in (x, y))
    # Depends on y only, so that it is computed once for a fixed y.
    complete = _ranks(theirs, jnp.ones_like(pairs))
    a, b = _ranks(ours, pairs), jax.lax.cond(pairs.all(), lambda: complete, lambda: _ranks(theirs, pairs))
    known = (defined.sum() > 2) & jnp.isfinite(x).all() & jnp.isfinite(y).all()
    return jnp.where(known, cosine(a, b), jnp.nan)


def _dissimilarities(x: Float[Array, "n p"]) -> Float[Array, "n n"]:
    """1 - Pearson's correlation of every pair of rows."""
    x = _scaled(x - x.mean(1, keepdims=True), 1)
    x = x / jnp.sqrt(jnp.maximum((x**2).sum(1, keepdims=True), jnp.finfo(x.dtype).tiny))
    return 1 - x @ x.T


def _ranks(values: Float[Array, " n"], used: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Mean ranks of the used values minus the mean of all ranks; 0 for the others.

    Neighbours in the order that differ by rounding are one tie. Where such neighbours form a chain across many
    roundings, only equal values are: a chain would join values that differ.
    """
    tolerance, index = _ROUNDING / 2 * float(jnp.finfo(values.dtype).eps), jnp.arange(len(values))
    values = jnp.where(used, values, jnp.inf)
    order = jnp.argsort(values)
    ordered = jnp.where(jnp.isinf(values[order]), 4, values[order])  # dissimilarities are at most 2

    def ends(least: float | Float[Array, ""]) -> tuple[Array, Array]:
        """The first and the last index of each value's chain of neighbours that differ by at most `least`."""
        chain = jnp.cumsum(jnp.append(False, jnp.diff(ordered) > least))
        first = jnp.full(len(values) + 1, len(values)).at[chain].min(index)
        return first[chain], first[chain + 1] - 1

    (first, last), (same_first, same_last) = ends(tolerance), ends(0.0)
    narrow = ordered[last] - ordered[first] <= _ROUNDING * tolerance
    mean_rank = jnp.where(narrow, first + last, same_first + same_last).astype(values.dtype) / 2
    ranks = jnp.zeros_like(values).at[order].set(mean_rank)
    return jnp.where(used, ranks - (used.sum() - 1) / 2, 0)


def procrustes(x: Float[Array, "n p"], y: Float[Array, "n q"]) -> Float[Array, ""]:
    """Similarity of two centred representations up to a rotation, in [0, 1]; 1 = equal up to rotation and scale.

    ||Xc'Yc||_* / (||Xc||_F ||Yc||_F) with the nuclear norm; the Procrustes distance of representations of norm 1 is
    sqrt(2 - 2 similarity). NaN where a representation is constant. Source: Williams et al. 2021, section 2.
    """
    x, y = _centred(x), _centred(y)
    common = _thin(x) @ _thin(y).T
    return _ratio(jnp.linalg.svd(common, compute_uv=False).sum(), jnp.sqrt(_square(x) * _square(y)))


def _thin(x: Float[Array, "p n"]) -> Float[Array, "q n"]:
    """A matrix with the same Gram matrix of examples and at most as many features as examples."""
    return jnp.linalg.qr(x, mode="r") if x.shape[0] > x.shape[1] else x


def r_squared(predicted: Float[Array, "n p"], target: Float[Array, "n p"]) -> Float[Array, ""]:
    """Fraction of the variance of `target`, all columns together, that `predicted` explains without any fit; <= 1.

    1 - ||target - predicted||^2 / ||target - mean(target)||^2; below 0 where the mean is a better prediction, NaN where
    the target is constant.
    """
    deviation = _norm((target - predicted).ravel())
    return 1 - _ratio(deviation, _norm(_deviations(target).ravel())) ** 2


def cosine(x: Float[Array, "*batch d"], y: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Cosine of the angle between vectors along the last axis; NaN where one is zero."""
    x, y = _scaled(x, -1), _scaled(y, -1)
    return _ratio((x * y).sum(-1), jnp.sqrt((x**2).sum(-1) * (y**2).sum(-1)))


def distance(x: Float[Array, "*batch d"], y: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Relative distance ||x - y|| / ||x|| along the last axis; NaN where x is zero."""
    return _ratio(_norm(x - y), _norm(x))


def _scaled(x: Float[Array, "..."], axis: int | None = None) -> Float[Array, "..."]:
    """Multiply by the power of two that brings the largest absolute value along an axis to [1, 2)."""
    return x * _powers(jnp.abs(x).max(axis, keepdims=True))[1]


def _norm(x: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """The Euclidean norm along the last axis, without overflow of the squares."""
    power, inverse = _powers(jnp.abs(x).max(-1, keepdims=True))
    return jnp.sqrt(((x * inverse) ** 2).sum(-1)) * power[..., 0]


def _powers(x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The largest power of two up to each x >= 0, and its inverse; both stay finite and normal."""
    limits = jnp.finfo(x.dtype)
    bits = jnp.uint32 if limits.bits == 32 else jnp.uint64
    lowest, top = 1 << limits.nmant, 2 ** (limits.nexp - 1) - 1  # of the exponent's field, and the exponent's offset
    field = jax.lax.bitcast_convert_type(x, bits) & bits((2**limits.nexp - 1) * lowest)
    field = jnp.clip(field, bits(lowest), bits((2 * top - 1) * lowest))
    power, inverse = (jax.lax.bitcast_convert_type(part, x.dtype) for part in (field, bits(2 * top * lowest) - field))
    return power, inverse


def _ratio(above: Float[Array, "*batch"], below: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The quotient; NaN, without a division, where the denominator is zero."""
    return jnp.where(below == 0, jnp.nan, above / jnp.where(below == 0, 1, below))


def _is_constant(x: Float[Array, "n p"], axis: int) -> Bool[Array, " m"]:
    """Whether all numbers along an axis are equal within rounding."""
    largest = jnp.abs(x).max(axis)
    return x.max(axis) - x.min(axis) <= _ROUNDING * jnp.finfo(x.dtype).eps * largest


def _deviations(x: Float[Array, "n p"]) -> Float[Array, "p n"]:
    """Deviations from the mean over examples, 0 for a constant feature.

    Examples are columns, the nets' memory layout: products then need no transpose.
    """
    return jnp.where(_is_constant(x, 0)[:, None], 0, x.T - x.mean(0)[:, None])


def _centred(x: Float[Array, "n p"]) -> Float[Array, "p n"]:
    """Centred and scaled features with examples in columns."""
    return _scaled(_deviations(x))


def _square(x: Float[Array, "p q"]) -> Float[Array, ""]:
    return (x**2).sum()

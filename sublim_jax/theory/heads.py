"""Theory of linear heads: cosine of two heads, first step, optimal latent, accuracy under weight noise.

m = number of auxiliary logits, d = latent width, `kernel` = weights [d, columns], `seen` = columns in the loss.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

NODES, _weights = np.polynomial.hermite_e.hermegauss(64)  # for the integral over a standard normal number
WEIGHTS = _weights / np.sqrt(2 * np.pi)


class Bounds(NamedTuple):
    """Accuracy with a lower and an upper bound, each in [0, 1]."""

    lower: Float[Array, ""]
    exact: Float[Array, ""]
    upper: Float[Array, ""]


class Factors(NamedTuple):
    """A head as left @ diag(size) @ right.T, k = min(d, columns); null directions have size 0 and zero columns.

    Attributes:
        left: [d, k], orthonormal latent directions that the masked-in columns read.
        size: [k], singular values in descending order.
        right: [columns, k], orthonormal combinations of logits; rows of masked-out columns are 0.
    """

    left: Float[Array, "d k"]
    size: Float[Array, " k"]
    right: Float[Array, "columns k"]


def compatibility(ratio: ArrayLike, share: ArrayLike = 1.0) -> Float[Array, "..."]:
    """Expected cosine of the head share W + (1 - share) W' + sigma Xi with W, where W' is an independent draw.

    share / sqrt(share^2 + (1 - share)^2 + ratio). Valid for independent draws of mean 0 and many weights: single draws
    scatter by at most about 1 / sqrt(number of weights). Source: docs/theory.md, D3.

    Args:
        ratio: sigma^2 / s^2, with s^2 the variance of a weight of W and W' (1 / (3d) for PyTorch's default).
        share: interpolation weight of W, in [0, 1].
    """
    share = jnp.asarray(share)
    return share / jnp.sqrt(jnp.square(share) + jnp.square(1 - share) + ratio)


def first_step(
    m: ArrayLike, d: ArrayLike, ratio: ArrayLike = 0, offset: ArrayLike = 0, along: ArrayLike = 0, unit: ArrayLike = 0
) -> Float[Array, "..."]:
    """Expected cosine of the latent's first step through m random logits with the teacher's displacement.

    sqrt(m / (m + 1 + d (1 + ratio) + d ratio offset^2 (1 + ratio) + (m + 1) (ratio offset)^2)) for h_0 orthogonal to
    the displacement: the exact ratio of moments E<g, displacement> / sqrt(E|g|^2), which differs from the mean cosine
    by a relative d / (4mn) - 1/n, n = m + d, and is no bound. At m = 1 the mean of |cos| is sqrt(2 / pi) / sqrt(d);
    `first_step_mean` is exact. Valid before training, for Gaussian heads or d >> 1. Source: docs/theory.md, D2.

    Args:
        m: number of auxiliary logits.
        d: latent width.
        ratio: sigma^2 / s^2 of the noise on the student's head.
        offset: |h_0| / |displacement|.
        along: cosine of h_0 with the displacement.
        unit: 1 / |displacement| if the bias is noisy too, which adds d ratio (1 + ratio) unit^2 below the root.
    """
    tilt = ratio * offset * along
    noise = d * (1 + ratio) * (1 + ratio * jnp.square(offset)) + (m + 1) * (jnp.square(ratio * offset) - 2 * tilt)
    noise = noise + d * ratio * (1 + ratio) * jnp.square(unit)
    return jnp.sqrt(m / (m + 1 + noise)) * (1 - tilt)


def first_step_mean(m: ArrayLike, d: ArrayLike) -> Float[Array, "..."]:
    """Exact mean of the first step's cosine through a shared Gaussian head of m logits; of |cos| where m = 1.

    Its square is Beta(m / 2, (d - 1) / 2), so the mean is G((m + 1) / 2) G((m + d - 1) / 2) / (G(m / 2) G((m + d) / 2))
    with the Gamma function G. Exact for every m, d >= 1. Source: docs/theory.md, D2.
    """
    m, d = (jnp.asarray(value, jnp.result_type(value, float)) for value in (m, d))
    return _half_up(m / 2) / _half_up((m + d - 1) / 2)


def _half_up(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """G(x + 1/2) / G(x) for x >= 1/2 to rounding; the difference of two `gammaln` loses four digits at x = 10^4.

    Stirling's series at x + 5, reduced by G(x + 1) = x G(x).
    """
    down = jnp.ones_like(x)
    for shift in range(5):
        down *= (x + shift) / (x + shift + 0.5)
    y = 1 / (x + 5)
    series = 1 + y * (-1 / 8 + y * (1 / 128 + y * (5 / 1024 + y * (-21 / 32768 + y * (-399 / 262144)))))
    return down * jnp.sqrt(x + 5) * series


def factors(kernel: Float[Array, "d columns"], seen: Bool[Array, " columns"]) -> Factors:
    """Compute the thin singular value decomposition of a head's masked-in columns.

    A QR decomposition of the long side leaves a square of side k = min(d, columns), so the cost is d columns k. A
    singular value of at most eps max(d, columns) times the largest counts as null. Source: docs/theory.md, D5.
    """
    kernel = jnp.where(seen[None], kernel, 0)
    tall = kernel.shape[0] >= kernel.shape[1]
    long, square = jnp.linalg.qr(kernel if tall else kernel.T)
    u, size, vt = jnp.linalg.svd(square, full_matrices=False)
    kept = size > jnp.finfo(kernel.dtype).eps * max(kernel.shape) * size[0]
    outer, inner = (jnp.where(kept[None], factor, 0) for factor in (long @ u, vt.T))
    return Factors(outer if tall else inner, jnp.where(kept, size, 0), inner if tall else outer)


def row_space(kernel: Float[Array, "d columns"], seen: Bool[Array, " columns"]) -> Float[Array, "d k"]:
    """Compute `factors(...).left`; basis @ basis.T is the projector on the row space for any rank. Source: D5."""
    return factors(kernel, seen).left


def inside(basis: Float[Array, "d k"], displacement: Float[Array, "n d"]) -> Float[Array, ""]:
    """Fraction of a displacement's energy in the span of an orthonormal basis, in [0, 1]; NaN for no displacement.

    Rank / d is expected for an isotropic displacement. Source: docs/theory.md, D5.
    """
    return jnp.square(displacement @ basis).sum() / jnp.square(displacement).sum()


def oracle(
    kernel: Float[Array, "d columns"],
    seen: Bool[Array, " columns"],
    gap: Float[Array, "n columns"],
    start: Float[Array, "n d"],
) -> Float[Array, "n d"]:
    """Compute the latents that minimise a fixed head's squared error by gradient descent on each latent alone.

    start + the smallest change with change @ kernel[:, seen] = gap[:, seen] in least squares; gap = the teacher's
    logits minus those of `start`. It is P h_t + (I - P) h_s0 where student and teacher share the head. No bound if
    hidden layers are shared: they transmit displacement outside the head's row space. Source: docs/theory.md, D5.
    """
    return start + nearest(factors(kernel, seen), jnp.where(seen[None], gap, 0))


def nearest(head: Factors, gap: Float[Array, "n columns"]) -> Float[Array, "n d"]:
    """Compute the smallest latent change that changes a head's logits by `gap`, in least squares; see `oracle`."""
    inverse = jnp.where(head.size > 0, 1 / jnp.where(head.size > 0, head.size, 1), 0)
    return ((gap @ head.right) * inverse[None]) @ head.left.T


def noisy_head(logits: Float[Array, "n K"], scale: Float[Array, " n"], labels: Int[Array, " n"]) -> Bounds:
    """Expected accuracy under independent normal noise on all logits, with two bounds.

    exact  mean of the integral of phi(g) prod_k Phi((z_y - z_k) / scale + g) over g, Gauss-Hermite with 64 nodes
    upper  mean of Phi(min_k (z_y - z_k) / (sqrt(2) scale)), the runner-up alone
    lower  mean of max(0, 1 - sum_k Phi(-(z_y - z_k) / (sqrt(2) scale))), the union bound
    Exact if the trunk is independent of the noise. Source: docs/theory.md, D4.

    Args:
        logits: [n, K].
        scale: standard deviation [n], sigma sqrt(1 + |h|^2) for noise N(0, sigma^2) on weights and biases; at 0 all
            three are the accuracy without noise, at infinity `exact` is 1 / K.
        labels: [n], in [0, K).
    """
    own = jnp.arange(logits.shape[1])[None] == labels[:, None]
    noisy = scale != 0  # also where it is NaN, so that the result is
    gaps = jnp.take_along_axis(logits, labels[:, None], axis=1) - logits
    gaps = jnp.where(own, jnp.inf, gaps / jnp.where(noisy, scale, 1)[:, None])

    def add(total: Float[Array, " n"], node: tuple[Array, Array]) -> tuple[Float[Array, " n"], None]:
        point, weight = node
        return total + weight * ndtr(gaps + point).prod(1), None

    def integral() -> Float[Array, " n"]:
        nodes = (jnp.asarray(NODES, logits.dtype), jnp.asarray(WEIGHTS, logits.dtype))
        return jax.lax.scan(add, jnp.zeros_like(gaps[:, 0]), nodes)[0]  # one node at a time: memory is n K

    exact = jax.lax.cond(noisy.any(), integral, lambda: jnp.zeros_like(gaps[:, 0]))  # not used where there is no noise
    pairs = ndtr(-gaps / jnp.sqrt(jnp.asarray(2, logits.dtype)))  # the probability that k beats the label
    plain = jnp.where(jnp.isfinite(logits).all(1), (logits.argmax(1) == labels).astype(logits.dtype), jnp.nan)
    accuracies = (jnp.maximum(1 - pairs.sum(1), 0), exact, 1 - pairs.max(1))
    return Bounds(*(jnp.where(noisy, value, plain).mean() for value in accuracies))

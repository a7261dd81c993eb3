"""What a linear head passes on: its likeness to another, the first step through it, the best latent, its noise."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(64)  # for the integral over a standard normal number
WEIGHTS = WEIGHTS / np.sqrt(2 * np.pi)


class Bounds(NamedTuple):
    """An accuracy between two bounds, each in [0, 1]."""

    lower: Float[Array, ""]
    exact: Float[Array, ""]
    upper: Float[Array, ""]


class Factors(NamedTuple):
    """A head as left @ diag(size) @ right.T, k = min(d, columns); null directions have size 0 and zero columns.

    left   [d, k]        orthonormal: the directions of the latent that the seen columns read
    size   [k]           singular values, falling
    right  [columns, k]  orthonormal: combinations of logits; rows of unseen columns are 0
    """

    left: Float[Array, "d k"]
    size: Float[Array, " k"]
    right: Float[Array, "columns k"]


def compatibility(ratio: ArrayLike, share: ArrayLike = 1.0) -> Float[Array, "..."]:
    """Expected cosine of share W + (1 - share) fresh + sigma Xi with the head W that it was made from.

    share / sqrt(share^2 + (1 - share)^2 + ratio), ratio = sigma^2 / s^2, with s^2 the variance of a weight of W and
    of the fresh draw (1 / (3d) for PyTorch's). Valid for independent draws of mean 0 and many weights: single draws
    scatter by at most about 1 / sqrt(number of weights). Source: docs/theory.md, D3.
    """
    share = jnp.asarray(share)
    return share / jnp.sqrt(jnp.square(share) + jnp.square(1 - share) + ratio)


def first_step(
    m: ArrayLike,
    d: ArrayLike,
    ratio: ArrayLike = 0.0,
    offset: ArrayLike = 0.0,
    along: ArrayLike = 0.0,
    unit: ArrayLike = 0.0,
) -> Float[Array, "..."]:
    """Expected cosine of a latent's first step through m random logits with the teacher's displacement.

    sqrt(m / (m + 1 + d (1 + ratio) + d ratio offset^2 (1 + ratio) + (m + 1) (ratio offset)^2)), h_0 orthogonal to the
    displacement. ratio = sigma^2 / s^2 is the noise on the student's head; offset = |h_0| / |displacement|; along =
    cosine of h_0 with the displacement; unit = 1 / |displacement|: noise on the bias as well adds
    d ratio (1 + ratio) unit^2 below the root. The exact ratio of moments E<g, displacement> / sqrt(E|g|^2), not the
    mean of a ratio and no bound: off the mean by a relative d / (4mn) - 1/n, n = m + d. At m = 1 the mean of |cos| is
    sqrt(2 / pi) / sqrt(d); `first_step_mean` is exact. Valid before anything moved, for Gaussian heads or d >> 1.
    Source: docs/theory.md, D2.
    """
    tilt = ratio * offset * along
    noise = d * (1 + ratio) * (1 + ratio * jnp.square(offset)) + (m + 1) * (jnp.square(ratio * offset) - 2 * tilt)
    noise = noise + d * ratio * (1 + ratio) * jnp.square(unit)
    return jnp.sqrt(m / (m + 1 + noise)) * (1 - tilt)


def first_step_mean(m: ArrayLike, d: ArrayLike) -> Float[Array, "..."]:
    """Exact mean of the first step's cosine through a shared Gaussian head; of |cos| where m = 1.

    Its square is Beta(m / 2, (d - 1) / 2), so the mean is G((m + 1) / 2) G((m + d - 1) / 2) / (G(m / 2) G((m + d) /
    2)) with the Gamma function G, and the mean square m / (m + d - 1). Exact for every m >= 1, d >= 1. Source:
    docs/theory.md, D2.
    """
    m, d = (jnp.asarray(one, jnp.result_type(one, float)) for one in (m, d))
    return _half_up(m / 2) / _half_up((m + d - 1) / 2)


def _half_up(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """G(x + 1/2) / G(x) for x >= 1/2 to rounding: the difference of two `gammaln` would lose four digits at x = 10^4.

    Stirling's series at x + 5, brought down by G(x + 1) = x G(x).
    """
    down = jnp.ones_like(x)
    for shift in range(5):
        down *= (x + shift) / (x + shift + 0.5)
    y = 1 / (x + 5)
    series = 1 + y * (-1 / 8 + y * (1 / 128 + y * (5 / 1024 + y * (-21 / 32768 + y * (-399 / 262144)))))
    return down * jnp.sqrt(x + 5) * series


def factors(kernel: Float[Array, "d columns"], seen: Bool[Array, " columns"]) -> Factors:
    """The thin singular value decomposition of a head's seen columns; null directions are zero in all three factors.

    A QR decomposition of the long side leaves a square of side k = min(d, columns), so the cost is d columns k: cheap
    for d = 11,585 with few columns and for 8,192 columns of d = 256. A direction is null where its singular value is
    at most eps max(d, columns) times the largest. Source: docs/theory.md, D5.
    """
    kernel = jnp.where(seen[None], kernel, 0)
    tall = kernel.shape[0] >= kernel.shape[1]
    long, square = jnp.linalg.qr(kernel if tall else kernel.T)
    u, size, vt = jnp.linalg.svd(square, full_matrices=False)
    kept = size > jnp.finfo(kernel.dtype).eps * max(kernel.shape) * size[0]
    outer, inner = (jnp.where(kept[None], one, 0) for one in (long @ u, vt.T))
    return Factors(outer if tall else inner, jnp.where(kept, size, 0), inner if tall else outer)


def row_space(kernel: Float[Array, "d columns"], seen: Bool[Array, " columns"]) -> Float[Array, "d k"]:
    """An orthonormal basis of the latent directions that the seen logits read, k = min(d, columns).

    Columns of null directions (unseen or dependent logits) are zero, so basis @ basis.T is the projector P whatever
    the rank. Source: docs/theory.md, D5.
    """
    return factors(kernel, seen).left


def inside(basis: Float[Array, "d k"], displacement: Float[Array, "n d"]) -> Float[Array, ""]:
    """The share of a displacement's energy that lies in a basis of `row_space`, in [0, 1]; NaN where nothing moved.

    Sum of squared norms of the projected rows over that of the rows. Rank / d for a displacement without preference.
    Source: docs/theory.md, D5.
    """
    return jnp.square(displacement @ basis).sum() / jnp.square(displacement).sum()


def oracle(
    kernel: Float[Array, "d columns"],
    seen: Bool[Array, " columns"],
    gap: Float[Array, "n columns"],
    start: Float[Array, "n d"],
) -> Float[Array, "n d"]:
    """The latents a student with a fixed head reaches when each of them alone descends to the least squared error.

    start + the smallest change that has change @ kernel[:, seen] = gap[:, seen] in least squares; gap = the teacher's
    logits minus those of `start`. Where student and teacher share the head it is P h_t + (I - P) h_s0. Bounds nothing
    once hidden layers are shared: they carry displacement that the head does not read. Source: docs/theory.md, D5.
    """
    return start + nearest(factors(kernel, seen), jnp.where(seen[None], gap, 0))


def nearest(head: Factors, gap: Float[Array, "n columns"]) -> Float[Array, "n d"]:
    """The smallest change of the latent that changes the logits of a head by `gap`, in least squares, by its factors.

    What `oracle` adds to the start; of unseen logits the gap does not count. Source: docs/theory.md, D5.
    """
    inverse = jnp.where(head.size > 0, 1 / jnp.where(head.size > 0, head.size, 1), 0)
    return ((gap @ head.right) * inverse[None]) @ head.left.T


def noisy_head(logits: Float[Array, "n K"], scale: Float[Array, " n"], labels: Int[Array, " n"]) -> Bounds:
    """Expected accuracy under independent normal noise of standard deviation `scale` on logits, between two bounds.

    scale = sigma sqrt(1 + |h|^2) for noise N(0, sigma^2) on weights and biases of a class head.
    exact  mean of the integral of phi(g) prod_k Phi((z_y - z_k) / scale + g) over g, by Gauss and Hermite's 64 nodes
    upper  mean of Phi(min_k (z_y - z_k) / (sqrt(2) scale)): only the runner-up may win
    lower  mean of max(0, 1 - sum_k Phi(-(z_y - z_k) / (sqrt(2) scale))): union bound, clipped example by example
    Exact for a trunk that is independent of the noise, whatever the logits; all three are the plain accuracy where
    scale is 0, and `exact` goes to 1 / K for large scale. Labels are in [0, K). Source: docs/theory.md, D4.
    """
    own = jnp.arange(logits.shape[1])[None] == labels[:, None]
    noisy = scale > 0
    gaps = jnp.take_along_axis(logits, labels[:, None], axis=1) - logits
    gaps = jnp.where(own, jnp.inf, gaps / jnp.where(noisy, scale, 1)[:, None])

    def add(total: Float[Array, " n"], node: tuple[Array, Array]) -> tuple[Float[Array, " n"], None]:
        place, weight = node
        return total + weight * ndtr(gaps + place).prod(1), None

    nodes = (jnp.asarray(NODES, logits.dtype), jnp.asarray(WEIGHTS, logits.dtype))
    exact, _ = jax.lax.scan(add, jnp.zeros_like(gaps[:, 0]), nodes)  # one node at a time: memory is n K
    pairs = ndtr(-gaps / jnp.sqrt(jnp.asarray(2, logits.dtype)))  # the probability that k beats the label
    plain = (logits.argmax(1) == labels).astype(logits.dtype)
    each = (jnp.maximum(1 - pairs.sum(1), 0), exact, 1 - pairs.max(1))
    return Bounds(*(jnp.where(noisy, one, plain).mean() for one in each))

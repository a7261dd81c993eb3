"""Scalar formulas: equations per weight, recovered energy, drift and erosion of weights, condition number, chance.

m = number of auxiliary logits, d = latent width; sources are sections of docs/theory.md.
"""

import jax.numpy as jnp
from jax.scipy.special import ndtr
from jax.scipy.stats import norm
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def equations(m: ArrayLike, images: ArrayLike, weights: ArrayLike) -> Float[Array, "..."]:
    """Equations per trained weight of the student: m logits on N images over P weights, m N / P.

    Below 1 the student can fit every logit and still differ from the teacher; 1 is necessary, not sufficient: logits
    beyond the latent width and images beyond the input rank are redundant. For independent, isotropic equations and a
    net linear in its weights, gradient descent recovers min(1, ratio) of the displacement's energy. Source: D6.
    """
    return _real(m) * (_real(images) / _real(weights))


def capacity_bits(m: ArrayLike, images: ArrayLike, levels: ArrayLike) -> Float[Array, "..."]:
    """Upper bound on the information, in bits, of m logits of `levels` values on N `images`: m N log2(levels).

    Far from tight, because logits of similar images are dependent. Source: docs/theory.md, D6.
    """
    return _real(m) * _real(images) * jnp.log2(_real(levels))


def logits_needed(cosine: ArrayLike, d: ArrayLike, ratio: ArrayLike = 0.0) -> Float[Array, "..."]:
    """Number of logits for an expected first-step cosine c: m = (1 + d (1 + ratio)) c^2 / (1 - c^2), not rounded.

    The inverse of `first_step` in m, valid in the same regime; infinite at cosine 1. Source: docs/theory.md, D2.
    """
    square = jnp.square(_real(cosine))
    return (1 + _real(d) * (1 + _real(ratio))) * square / (1 - square)


def recovered_energy(m: ArrayLike, d: ArrayLike) -> Float[Array, "..."]:
    """Expected fraction of a latent displacement's energy that m random shared logits determine: min(1, m / d).

    Exact for fixed, shared heads with isotropic row space (Gaussian) and a displacement independent of them; single
    draws are Beta(m / 2, (d - m) / 2). Source: docs/theory.md, D5.
    """
    return jnp.minimum(_real(m) / d, 1)


def recovered_cosine(m: ArrayLike, d: ArrayLike) -> Float[Array, "..."]:
    """Root mean square cosine of the recovered with the whole displacement: sqrt(min(1, m / d)).

    The least-squares limit, of which `first_step` is the first step; the mean is relatively smaller by about 1 / (4m)
    at most. Source: docs/theory.md, D5.
    """
    return jnp.sqrt(recovered_energy(m, d))


def drifted(ratio: ArrayLike) -> Float[Array, "..."]:
    """Cosine of a head with its initial value after a drift: 1 / sqrt(1 + ratio), ratio = delta^2 / s^2.

    delta^2 is the mean square drift, s^2 the variance of initial weights (ratio = 3 d delta^2 for PyTorch's default).
    Exact for a drift orthogonal to the initial weights, a lower bound for one along them, no bound for one against
    them, as under weight decay. Source: docs/theory.md, D7.
    """
    return 1 / jnp.sqrt(1 + _real(ratio))


def half_width(delta: ArrayLike) -> Float[Array, "..."]:
    """Latent width at which an rms drift of `delta` equals the scale of PyTorch's initial weights: 1 / (3 delta^2).

    There `drifted` is 1 / sqrt(2). Valid if delta does not depend on the width. Source: docs/theory.md, D7.
    """
    return 1 / (3 * jnp.square(_real(delta)))


def signed_step(cosine: ArrayLike) -> Float[Array, "..."]:
    """Expected cosine of sign(v) with a target, given the cosine of v: sqrt(2 / pi) times it.

    A model of Adam's normalisation; the step length becomes the learning rate times sqrt(d). Valid if coordinates of
    vector and target are jointly normal, many, and of one variance. Source: docs/theory.md, D7.
    """
    return jnp.sqrt(2 / jnp.pi) * _real(cosine)


def eroded(weights: Float[Array, "..."], amount: ArrayLike) -> Float[Array, "..."]:
    """Move weights towards zero by `amount` and stop at zero: sign(w) max(|w| - amount, 0).

    The leading-order effect of T steps of Adam with an L2 gradient alone: amount = lr T for any L2 coefficient. No
    weight loses more and small weights lose less, so Adam's cosine is larger. Source: docs/theory.md, D9.
    """
    return jnp.sign(weights) * jnp.maximum(jnp.abs(weights) - amount, 0)


def eroded_cosine_normal(t: ArrayLike) -> Float[Array, "..."]:
    """Cosine of N(0, s^2) weights before and after erosion by t s, t >= 0.

    2Q / sqrt(2 ((1 + t^2) Q - t phi)), Q = 1 - Phi(t), phi the normal density. Exact for many weights; float32 loses
    digits with growing t: 1e-3 relative at t = 6. Source: docs/theory.md, D9.
    """
    t = _real(t)
    tail = ndtr(-t)
    square = 2 * ((1 + t * t) * tail - t * norm.pdf(t))
    return jnp.where(square > 0, 2 * tail / jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def eroded_cosine_uniform(t: ArrayLike) -> Float[Array, "..."]:
    """Cosine of U(-a, a) weights before and after erosion by t standard deviations a / sqrt(3), t >= 0.

    sqrt(1 - u) (2 + u) / 2 with u = t / sqrt(3), and 0 for u >= 1. Exact for many weights. Source: docs/theory.md, D9.
    """
    u = jnp.minimum(_real(t) / jnp.sqrt(3), 1)
    return jnp.sqrt(1 - u) * (2 + u) / 2


def condition_number(m: ArrayLike, d: ArrayLike) -> Float[Array, "..."]:
    """Ratio of extreme non-zero singular values of a random m x d head: (sqrt m + sqrt d) / |sqrt m - sqrt d|.

    The edges of the Marchenko-Pastur law, exact as m and d grow in proportion; infinite at m = d, where single draws
    are of order d. No measurement supports that it causes a dip of transfer at d = m. Source: docs/theory.md, D8.
    """
    m, d = jnp.sqrt(_real(m)), jnp.sqrt(_real(d))
    apart = jnp.abs(m - d)
    return jnp.where(apart > 0, (m + d) / jnp.where(apart > 0, apart, 1), jnp.inf)


def chance(classes: ArrayLike) -> Float[Array, "..."]:
    """Expected accuracy of a class head drawn independently of trunk and labels: 1 / K.

    Exact for identically distributed columns and any trunk, as a mean over draws of the head. Source: D10.
    """
    return 1 / _real(classes)


def chance_scatter(classes: ArrayLike) -> Float[Array, "..."]:
    """Standard deviation of the accuracy over heads that permute K equally large, perfectly separated classes: 1 / K.

    The number of fixed points of a random permutation has mean 1 and variance 1. A reference scale, not a bound: a
    student with a random class head deviates from chance by that much for any number of test images. Source: D10.
    """
    return 1 / _real(classes)


def _real(x: ArrayLike) -> Float[Array, "..."]:
    """Convert to float: a product of integers may overflow 32 bits."""
    return jnp.asarray(x, jnp.result_type(x, float))

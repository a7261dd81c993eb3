"""Scalar laws: counting equations, recovered energy, drifting and eroding weights, the hard edge, chance."""

import jax.numpy as jnp
from jax.scipy.special import ndtr
from jax.scipy.stats import norm
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def equations(m: ArrayLike, images: ArrayLike, weights: ArrayLike) -> Float[Array, "..."]:
    """Equations per unknown that N distinct images with m logits each give to the student's trained weights: m N / P.

    Below 1 the student can fit every logit and still differ from the teacher; 1 is necessary, not sufficient: logits
    beyond the latent's width and images beyond the input's rank repeat what is known. Where equations are independent
    and isotropic, and the net linear in its weights, gradient descent recovers the share min(1, ratio) of the
    displacement's energy. Source: docs/theory.md, D6.
    """
    return _real(m) * (_real(images) / _real(weights))


def capacity_bits(m: ArrayLike, images: ArrayLike, levels: ArrayLike) -> Float[Array, "..."]:
    """The most that N distinct images with m logits of so many levels can say, in bits: m N log2(levels).

    A bound, whatever the nets; far from reached, because logits of similar images depend on each other. Source:
    docs/theory.md, D6.
    """
    return _real(m) * _real(images) * jnp.log2(_real(levels))


def logits_needed(cosine: ArrayLike, d: ArrayLike, ratio: ArrayLike = 0.0) -> Float[Array, "..."]:
    """How many logits the first step needs for an expected cosine: m = (1 + d (1 + ratio)) c^2 / (1 - c^2).

    The inverse of `first_step` in m, with its regime; not rounded; infinite at cosine 1. Source: docs/theory.md, D2.
    """
    square = jnp.square(_real(cosine))
    return (1 + _real(d) * (1 + _real(ratio))) * square / (1 - square)


def recovered_energy(m: ArrayLike, d: ArrayLike) -> Float[Array, "..."]:
    """Expected share of a latent displacement's energy that m random shared logits determine: min(1, m / d).

    Exact for heads whose row space has no preferred direction (Gaussian), fixed and shared, and a displacement drawn
    independently of them; single draws are Beta(m / 2, (d - m) / 2). Source: docs/theory.md, D5.
    """
    return jnp.minimum(_real(m) / d, 1)


def recovered_cosine(m: ArrayLike, d: ArrayLike) -> Float[Array, "..."]:
    """Root mean square cosine of the recovered with the whole displacement: sqrt(min(1, m / d)).

    The limit of least squares, against `first_step`, which is its first step; the mean is below it by a relative
    error of at most about 1 / (4m). Source: docs/theory.md, D5.
    """
    return jnp.sqrt(recovered_energy(m, d))


def drifted(ratio: ArrayLike) -> Float[Array, "..."]:
    """Cosine of a head with what it began as, after a drift of mean square delta^2 on weights of variance s^2.

    1 / sqrt(1 + ratio), ratio = delta^2 / s^2 (3 d delta^2 for PyTorch's draw). Exact where the drift is orthogonal
    to the beginning; a lower bound where it points the same way; no bound where it points back, as under decay.
    Source: docs/theory.md, D7.
    """
    return 1 / jnp.sqrt(1 + _real(ratio))


def half_width(delta: ArrayLike) -> Float[Array, "..."]:
    """The latent width at which a drift of rms delta is as large as PyTorch's initial weights: 1 / (3 delta^2).

    There `drifted` is 1 / sqrt(2). Valid as long as delta does not depend on the width. Source: docs/theory.md, D7.
    """
    return 1 / (3 * jnp.square(_real(delta)))


def signed_step(cosine: ArrayLike) -> Float[Array, "..."]:
    """Expected cosine with the target of the signs of a vector that had the given cosine: sqrt(2 / pi) times it.

    What a normaliser like Adam's does to a step: it costs a constant factor, but the step's length is now the
    learning rate times sqrt(d). Valid where coordinates of vector and target are jointly normal, many, and of one
    variance. Source: docs/theory.md, D7.
    """
    return jnp.sqrt(2 / jnp.pi) * _real(cosine)


def eroded(weights: Float[Array, "..."], amount: ArrayLike) -> Float[Array, "..."]:
    """Weights moved towards zero by `amount` and stopped there: sign(w) max(|w| - amount, 0).

    What T steps of Adam with an L2 gradient, and no other, do at learning rate lr, to leading order: amount = lr T,
    whatever the L2 coefficient. No weight loses more; one of that size or below loses less, so Adam's cosine is above
    the threshold's. Source: docs/theory.md, D9.
    """
    return jnp.sign(weights) * jnp.maximum(jnp.abs(weights) - amount, 0)


def eroded_cosine_normal(t: ArrayLike) -> Float[Array, "..."]:
    """Cosine of N(0, s^2) weights with themselves after t s is removed; t >= 0.

    2Q / sqrt(2 ((1 + t^2) Q - t phi)), Q = 1 - Phi(t), phi the normal density. Exact for many weights; float32 loses
    digits with growing t: 1e-3 relative at t = 6. Source: docs/theory.md, D9.
    """
    t = _real(t)
    tail = ndtr(-t)
    square = 2 * ((1 + t * t) * tail - t * norm.pdf(t))
    return jnp.where(square > 0, 2 * tail / jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def eroded_cosine_uniform(t: ArrayLike) -> Float[Array, "..."]:
    """Cosine of U(-a, a) weights with themselves after t standard deviations a / sqrt(3) are removed; t >= 0.

    sqrt(1 - u) (2 + u) / 2 with u = t / sqrt(3), and 0 from u = 1 on, where no weight is left. Exact for many
    weights. Source: docs/theory.md, D9.
    """
    u = jnp.minimum(_real(t) / jnp.sqrt(3), 1)
    return jnp.sqrt(1 - u) * (2 + u) / 2


def condition_number(m: ArrayLike, d: ArrayLike) -> Float[Array, "..."]:
    """Largest over smallest non-zero singular value of a random m x d head: (sqrt m + sqrt d) / |sqrt m - sqrt d|.

    The edges of Marchenko and Pastur's law: exact as m and d grow in proportion; infinite at m = d, where single
    draws are finite (of the order of d). That a dip of transfer at d = m follows from it is a hypothesis without
    support. Source: docs/theory.md, D8.
    """
    m, d = jnp.sqrt(_real(m)), jnp.sqrt(_real(d))
    apart = jnp.abs(m - d)
    return jnp.where(apart > 0, (m + d) / jnp.where(apart > 0, apart, 1), jnp.inf)


def chance(classes: ArrayLike) -> Float[Array, "..."]:
    """Expected accuracy of a class head drawn independently of trunk and labels: 1 / K.

    Exact for columns drawn alike, whatever the trunk, as a mean over draws of the head. Source: docs/theory.md, D10.
    """
    return 1 / _real(classes)


def chance_scatter(classes: ArrayLike) -> Float[Array, "..."]:
    """Standard deviation over heads that permute K equally large, perfectly kept classes of accuracy: 1 / K.

    Fixed points of a random permutation have mean 1 and variance 1. A reference level, no bound: a single student
    with a random class head is that far from chance, however many test images there are. Source: docs/theory.md, D10.
    """
    return 1 / _real(classes)


def _real(x: ArrayLike) -> Float[Array, "..."]:
    """As floats: a product of integers may not fit into 32 bits."""
    return jnp.asarray(x, jnp.result_type(x, float))

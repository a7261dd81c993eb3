"""Losses: per example, seen logits only; mask = slice."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Knobs, ModelOutput
from sublim_jax.training import losses

ONE = jnp.float32(1)


def knobs_of(seen, temperature=1.0):
    return Knobs(jnp.asarray(seen), jnp.int32(1), ONE, jnp.float32(temperature), share={}, init_noise={}, trainable={})


def out_of(logits):
    return ModelOutput(jnp.zeros((len(logits), 2)), logits, {})


@pytest.fixture
def logits():
    one, two = jax.random.normal(jax.random.key(0), (2, 5, 8))
    return one, two


@pytest.mark.parametrize("loss", [losses.mse, losses.kl, losses.cosine, losses.Huber(0.4)])
def test_losses_see_a_mask_as_a_slice(loss, logits):
    seen = np.array([0, 0, 0, 1, 1, 1, 0, 0], bool)
    masked = loss(out_of(logits[0]), out_of(logits[1]), knobs_of(seen))
    cut = loss(out_of(logits[0][:, 3:6]), out_of(logits[1][:, 3:6]), knobs_of(np.ones(3, bool)))
    assert masked.shape == (5,)
    np.testing.assert_allclose(masked, cut, rtol=1e-6)
    grad = jax.grad(lambda x: loss(out_of(x), out_of(logits[1]), knobs_of(seen)).sum())(logits[0])
    assert not np.any(np.asarray(grad)[:, ~seen]) and np.all(np.asarray(grad)[:, seen])


def kl(a, b):
    p, q = (np.exp(z / 2) / np.exp(z / 2).sum(-1, keepdims=True) for z in (b, a))
    return (p * np.log(p / q)).sum(-1)


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


FORMULAS = {
    "mse": (losses.mse, lambda a, b: ((a - b) ** 2).mean(-1)),
    "kl": (losses.kl, kl),
    "cosine": (
        losses.cosine,
        lambda a, b: 1 - (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1),
    ),
    "wide Huber": (losses.Huber(1e6), lambda a, b: ((a - b) ** 2).mean(-1) / 2),
    "narrow Huber": (lambda *given: 1e6 * losses.Huber(1e-6)(*given), lambda a, b: np.abs(a - b).mean(-1)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_losses_are_their_formulas(name, logits):
    loss, formula = FORMULAS[name]
    knobs = knobs_of(np.arange(8) < 6, temperature=2.0)
    for a, b in (logits, (3 * logits[0], logits[0]), (-2 * logits[0], logits[0]), (logits[0], logits[0])):
        wanted = formula(*(np.asarray(z, np.float64)[:, :6] for z in (a, b)))
        np.testing.assert_allclose(loss(out_of(a), out_of(b), knobs), wanted, rtol=1e-5, atol=1e-6)


def test_mse_refuses_to_broadcast(logits):
    with pytest.raises((AssertionError, ValueError)):
        losses.mse(out_of(logits[0]), out_of(logits[1][:1]), knobs_of(np.ones(8, bool)))


def test_cross_entropy_agrees_with_optax_and_ignores_the_unseen(logits):
    labels = jnp.array([0, 3, 2, 1, 0])
    found = losses.cross_entropy(out_of(logits[0]), labels, knobs_of(np.arange(8) < 4))
    wanted = optax.softmax_cross_entropy_with_integer_labels(logits[0][:, :4], labels)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_kl_of_one_logit_has_exactly_zero_gradient(logits):
    knobs = knobs_of(np.arange(8) == 3)
    grad = jax.grad(lambda x: losses.kl(out_of(x), out_of(logits[1]), knobs).sum())(logits[0])
    assert not np.any(grad)


@pytest.mark.parametrize("loss", [losses.cosine, losses.Huber(0.7)])
def test_losses_have_gradients_that_agree_with_finite_differences(loss, logits):
    knobs = knobs_of(np.arange(8) < 6)
    direction = jax.random.normal(jax.random.key(1), (5, 8))

    def along(step):
        return loss(out_of(logits[0] + step * direction), out_of(logits[1]), knobs).sum()

    numeric = (along(1e-2) - along(-1e-2)) / 2e-2
    np.testing.assert_allclose(jax.grad(along)(0.0), numeric, rtol=5e-3)


@pytest.mark.parametrize("which", [0, 1])
def test_cosine_is_safe_where_a_vector_is_zero(which, logits):
    given = [logits[0].at[2].set(0.0) if index == which else logits[1] for index in range(2)]
    all_seen = knobs_of(np.ones(8, bool))
    value, grad = jax.value_and_grad(lambda x: losses.cosine(out_of(x), out_of(given[1]), all_seen)[2])(given[0])
    assert value == 1 and not np.any(grad)


def test_cosine_of_one_logit_is_a_sign_without_gradient(logits):
    knobs = knobs_of(np.arange(8) == 3)
    value, back = jax.vjp(lambda x: losses.cosine(out_of(x), out_of(logits[1]), knobs), logits[0])
    np.testing.assert_allclose(value, 1 - np.sign(logits[0] * logits[1])[:, 3], atol=1e-6)
    np.testing.assert_allclose(back(jnp.ones(5))[0], np.zeros((5, 8)), atol=1e-5)


def test_huber_is_a_value_and_refuses_a_delta_that_is_not_above_zero():
    assert losses.Huber(0.5) == losses.Huber(0.5) != losses.Huber(0.6) and hash(losses.Huber(0.5)) == hash(
        losses.Huber(0.5)
    )
    for delta in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="Huber.delta: .* is not above 0"):
            losses.Huber(delta)


def test_kl_becomes_centred_mse_at_high_temperature(logits):
    """T^2 dKL/dz -> (d - mean(d)) / k with d = z - target over the k seen logits.

    Source: Hinton et al. 2015, section 2.
    """
    gap = np.asarray(logits[0] - logits[1])[:, :5]
    wanted = (gap - gap.mean(-1, keepdims=True)) / 5
    errors = []
    for temperature in (10.0, 100.0):
        knobs = knobs_of(np.arange(8) < 5, temperature)
        grad = jax.grad(lambda x, knobs=knobs: losses.kl(out_of(x), out_of(logits[1]), knobs).sum())(logits[0])
        errors.append(np.abs(temperature**2 * np.asarray(grad)[:, :5] - wanted).max())
    assert errors[1] < 0.01 and errors[1] < errors[0] / 5

"""Losses: per example, seen logits only; mask = slice."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sublim_jax import losses
from sublim_jax.allowed import pick
from sublim_jax.types import Knobs, Out

ONE = jnp.float32(1)


def knobs_of(seen, temperature=1.0):
    return Knobs(jnp.asarray(seen), jnp.int32(1), ONE, jnp.float32(temperature), share={}, sigma={}, live={})


def out_of(logits):
    return Out(jnp.zeros((len(logits), 2)), logits, {})


@pytest.fixture
def logits():
    one, two = jax.random.normal(jax.random.key(0), (2, 5, 8))
    return one, two


@pytest.mark.parametrize("loss", [losses.mse, losses.kl])
def test_mask_is_slice(loss, logits):
    seen = np.array([0, 0, 0, 1, 1, 1, 0, 0], bool)
    masked = loss(out_of(logits[0]), out_of(logits[1]), knobs_of(seen))
    cut = loss(out_of(logits[0][:, 3:6]), out_of(logits[1][:, 3:6]), knobs_of(np.ones(3, bool)))
    assert masked.shape == (5,)
    np.testing.assert_allclose(masked, cut, rtol=1e-6)
    grad = jax.grad(lambda x: loss(out_of(x), out_of(logits[1]), knobs_of(seen)).sum())(logits[0])
    assert not np.any(np.asarray(grad)[:, ~seen]) and np.all(np.asarray(grad)[:, seen])


def test_mse_is_the_mean_over_seen(logits):
    found = losses.mse(out_of(logits[0]), out_of(logits[1]), knobs_of(np.ones(8, bool)))
    np.testing.assert_allclose(found, np.mean((np.asarray(logits[0]) - np.asarray(logits[1])) ** 2, -1), rtol=1e-6)


def test_mse_refuses_to_broadcast(logits):
    with pytest.raises((AssertionError, ValueError)):
        losses.mse(out_of(logits[0]), out_of(logits[1][:1]), knobs_of(np.ones(8, bool)))


def test_cross_entropy_agrees_with_optax_and_ignores_the_unseen(logits):
    labels = jnp.array([0, 3, 2, 1, 0])
    found = losses.cross_entropy(out_of(logits[0]), labels, knobs_of(np.arange(8) < 4))
    wanted = optax.softmax_cross_entropy_with_integer_labels(logits[0][:, :4], labels)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_kl_is_zero_at_the_target_and_has_the_temperature(logits):
    knobs = knobs_of(np.ones(8, bool), 2.0)
    np.testing.assert_allclose(losses.kl(out_of(logits[0]), out_of(logits[0]), knobs), np.zeros(5), atol=1e-6)
    p, q = (np.asarray(jax.nn.softmax(one / 2)) for one in (logits[1], logits[0]))
    np.testing.assert_allclose(
        losses.kl(out_of(logits[0]), out_of(logits[1]), knobs), (p * np.log(p / q)).sum(-1), rtol=1e-5
    )


def test_kl_of_one_logit_has_exactly_zero_gradient(logits):
    knobs = knobs_of(np.arange(8) == 3)
    grad = jax.grad(lambda x: losses.kl(out_of(x), out_of(logits[1]), knobs).sum())(logits[0])
    assert not np.any(grad)


def test_pick_resolves_names_once_and_lists_what_exists():
    assert pick(losses, "kl", "student.loss") is losses.kl
    with pytest.raises(ValueError, match=r"config.student.loss: 'mes' is none of .*kl.*; did you mean 'mse'\?"):
        pick(losses, "mes", "student.loss")

"""Batches are pure functions of (key, step); an epoch shows every image once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sublim_jax import keys, streams
from sublim_jax.types import Bank, Knobs

STREAMS = [streams.uniform, streams.gaussian, streams.epochs]


def bank_of(n):
    x = np.zeros((n, 4, 4), np.uint8)
    x[:, 0, 0], x[:, 0, 1] = np.arange(n) % 256, np.arange(n) // 256
    return Bank(jnp.asarray(x), jnp.arange(n, dtype=jnp.int32), jnp.float32(0.1), jnp.float32(0.5))


def knobs_of(pool=2**31 - 1):
    one = jnp.float32(1)
    return Knobs(jnp.ones(3, bool), jnp.int32(pool), one, one, share={}, sigma={}, live={})


@pytest.mark.parametrize("stream", STREAMS)
def test_every_stream_gives_images_and_depends_on_key_and_step_only(stream):
    bank, knobs = bank_of(100), knobs_of()
    draw = jax.jit(lambda key, step: stream(key, step, 30, knobs, bank)[0])
    first, second = draw(keys.root(0), jnp.int32(0)), draw(keys.root(0), jnp.int32(1))
    assert first.shape == (30, 4, 4) and first.dtype == jnp.float32
    np.testing.assert_array_equal(first, draw(keys.root(0), jnp.int32(0)))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, draw(keys.root(1), jnp.int32(0)))


def test_noise_repeats_after_its_pool():
    bank, knobs = bank_of(10), knobs_of(pool=3)
    x = [streams.uniform(keys.root(0), jnp.int32(step), 5, knobs, bank)[0] for step in range(6)]
    for step in range(3):
        np.testing.assert_array_equal(x[step], x[step + 3])
    assert not np.array_equal(x[0], x[1])


def test_noise_has_its_law():
    bank, knobs = bank_of(10), knobs_of()
    x = np.ravel(streams.uniform(keys.root(0), jnp.int32(0), 2000, knobs, bank)[0])
    assert stats.kstest(x, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    x = np.ravel(streams.gaussian(keys.root(0), jnp.int32(0), 2000, knobs, bank)[0])
    assert stats.kstest(x, "norm").pvalue > 1e-3


@pytest.mark.parametrize(("n", "size"), [(100, 30), (90, 30), (7, 10), (1, 1), (257, 64)])
def test_epoch_shows_every_image_once_and_the_last_batch_is_partial(n, size):
    bank, knobs = bank_of(n), knobs_of()
    per_epoch = streams.steps_per_epoch(n, size)
    orders = []
    for epoch in range(2):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        batches = [streams.epochs(keys.root(0), jnp.int32(step), size, knobs, bank) for step in steps]
        y = np.concatenate([labels for _, labels in batches])
        assert sorted(y[y >= 0]) == list(range(n))
        assert (y < 0).sum() == per_epoch * size - n and (y[: n - n % size] >= 0).all()
        for x, labels in batches:
            real = np.asarray(labels) >= 0
            raw = np.rint((np.asarray(x)[real] * 0.5 + 0.1) * 255)
            np.testing.assert_array_equal(raw[:, 0, 0] + 256 * raw[:, 0, 1], np.asarray(labels)[real])
        orders.append(y[y >= 0].tolist())
    if n > 10:
        assert orders[0] != orders[1]


@pytest.mark.parametrize("n", [1, 2, 3, 64, 1000, 4097])
def test_shuffled_is_a_permutation(n):
    index = jnp.arange(n)
    assert sorted(streams.shuffled(keys.root(5), index, n).tolist()) == list(range(n))


def test_shuffled_is_uniform_over_places_and_pairs():
    n, draws = 12, 6000
    many = jax.vmap(lambda i: keys.at(keys.root(0), i))(jnp.arange(draws))
    found = np.asarray(jax.jit(jax.vmap(lambda key: streams.shuffled(key, jnp.arange(n), n)))(many))
    for index in range(n):
        assert stats.chisquare(np.bincount(found[:, index], minlength=n)).pvalue > 1e-4
    pair = np.bincount(found[:, 0] * n + found[:, 1], minlength=n * n)
    assert stats.chisquare(pair[[i for i in range(n * n) if i // n != i % n]]).pvalue > 1e-4


def test_normalised_is_the_published_scaling(mnist):
    train = jax.tree.map(jnp.asarray, mnist.train)
    x = streams.normalised(train, train.x)
    np.testing.assert_allclose(x, (np.asarray(mnist.train.x) / 255 - 0.1307) / 0.3081, rtol=1e-5, atol=1e-6)

"""Batches are pure functions of (key, step); an epoch shows every image once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import ImageData, Knobs
from sublim_jax.training import streams

NOISE = [streams.uniform, streams.gaussian, streams.Perlin(3)]
STREAMS = [
    *NOISE,
    streams.epochs,
    streams.Images(),
    streams.Images("other"),
    streams.Mixture(0.3),
    streams.Mixture(0.3, streams.Perlin(3), "other"),
]


def bank_of(n):
    x = np.zeros((n, 4, 4), np.uint8)
    x[:, 0, 0], x[:, 0, 1] = np.arange(n) % 256, np.arange(n) // 256
    more = {"other": jnp.asarray(x[::-1].copy())}
    return ImageData(jnp.asarray(x), jnp.arange(n, dtype=jnp.int32), jnp.float32(0.1), jnp.float32(0.5), more)


def named(x):
    """Which image of `bank_of` each one is."""
    raw = np.rint((np.asarray(x) * 0.5 + 0.1) * 255).astype(int)
    return raw[:, 0, 0] + 256 * raw[:, 0, 1]


def knobs_of(pool=2**31 - 1):
    one = jnp.float32(1)
    return Knobs(jnp.ones(3, bool), jnp.int32(pool), one, one, share={}, init_noise={}, trainable={})


@pytest.mark.parametrize("stream", STREAMS)
def test_streams_depend_on_key_and_step_only(stream):
    bank, knobs = bank_of(10), knobs_of()
    draw = jax.jit(lambda key, step: stream(key, step, 5, knobs, bank)[0])
    first, second = draw(keys.root(0), jnp.int32(0)), draw(keys.root(0), jnp.int32(1))
    assert first.shape == (5, 4, 4) and first.dtype == jnp.float32
    np.testing.assert_array_equal(first, draw(keys.root(0), jnp.int32(0)))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, draw(keys.root(1), jnp.int32(0)))


@pytest.mark.parametrize("stream", [*NOISE, streams.Images(), streams.Mixture(0.3)])
def test_streams_repeat_after_their_pool(stream):
    bank, knobs = bank_of(10), knobs_of(pool=3)
    draw = jax.jit(lambda step: stream(keys.root(0), step, 5, knobs, bank)[0])
    x = [draw(jnp.int32(step)) for step in range(6)]
    for step in range(3):
        np.testing.assert_array_equal(x[step], x[step + 3])
    assert not np.array_equal(x[0], x[1])


def test_uniform_and_gaussian_have_their_law():
    bank, knobs = bank_of(10), knobs_of()
    x = np.ravel(streams.uniform(keys.root(0), jnp.int32(0), 2000, knobs, bank)[0])
    assert stats.kstest(x, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    x = np.ravel(streams.gaussian(keys.root(0), jnp.int32(0), 2000, knobs, bank)[0])
    assert stats.kstest(x, "norm").pvalue > 1e-3


@pytest.mark.parametrize(("n", "size"), [(100, 30), (90, 30), (7, 10), (1, 1)])
def test_epochs_show_every_image_once_and_the_last_batch_is_partial(n, size):
    bank, knobs = bank_of(n), knobs_of()
    per_epoch = streams.steps_per_epoch(n, size)
    draw = jax.jit(lambda step: streams.epochs(keys.root(0), step, size, knobs, bank))
    orders = []
    for epoch in range(2):
        batches = [draw(jnp.int32(step)) for step in range(epoch * per_epoch, (epoch + 1) * per_epoch)]
        y = np.concatenate([labels for _, labels in batches])
        assert sorted(y[y >= 0]) == list(range(n))
        assert (y < 0).sum() == per_epoch * size - n and (y[: n - n % size] >= 0).all()
        np.testing.assert_array_equal(np.concatenate([named(x) for x, _ in batches])[y >= 0], y[y >= 0])
        orders.append(y[y >= 0].tolist())
    assert n <= 10 or orders[0] != orders[1]


@pytest.mark.parametrize("n", [1, 3, 64, 1000])
def test_permute_index_is_a_permutation(n):
    permute = jax.jit(streams.permute_index, static_argnums=2)
    assert sorted(permute(keys.root(5), jnp.arange(n), n).tolist()) == list(range(n))


def test_permute_index_is_uniform_over_places_and_pairs():
    n, draws = 12, 6000
    many = jax.vmap(lambda i: keys.at(keys.root(0), i))(jnp.arange(draws))
    found = np.asarray(jax.jit(jax.vmap(lambda key: streams.permute_index(key, jnp.arange(n), n)))(many))
    for index in range(n):
        assert stats.chisquare(np.bincount(found[:, index], minlength=n)).pvalue > 1e-4
    pair = np.bincount(found[:, 0] * n + found[:, 1], minlength=n * n)
    assert stats.chisquare(pair[[i for i in range(n * n) if i // n != i % n]]).pvalue > 1e-4


def test_normalize_images_is_the_published_scaling(mnist):
    train = jax.tree.map(jnp.asarray, mnist.train)
    x = streams.normalize_images(train, train.x)
    np.testing.assert_allclose(x, (np.asarray(mnist.train.x) / 255 - 0.1307) / 0.3081, rtol=1e-5, atol=1e-6)


def slow_perlin(angles, resolution, height, width):
    """One image, pixel by pixel, as in Perlin 2002: four corners, their ramps, two fades."""
    gradient = np.stack([np.cos(angles), np.sin(angles)], -1).reshape(resolution + 1, resolution + 1, 2)
    image = np.zeros((height, width))
    for i, j in np.ndindex(height, width):
        y, x = i * resolution / height, j * resolution / width
        top, left = int(y), int(x)
        fy, fx = y - top, x - left
        ramp = [[gradient[top + a, left + b] @ (fy - a, fx - b) for b in (0, 1)] for a in (0, 1)]
        sy, sx = (6 * t**5 - 15 * t**4 + 10 * t**3 for t in (fy, fx))
        upper, lower = (one[0] + sx * (one[1] - one[0]) for one in ramp)
        image[i, j] = upper + sy * (lower - upper)
    return image / np.abs(image).max()


@pytest.mark.parametrize(("resolution", "height", "width"), [(8, 28, 28), (1, 9, 9), (5, 28, 20)])
def test_perlin_agrees_with_a_loop_over_pixels(resolution, height, width):
    bank = ImageData(jnp.zeros((1, height, width), jnp.uint8), jnp.zeros(1, jnp.int32), jnp.float32(0), jnp.float32(1))
    found, labels = streams.Perlin(resolution)(keys.root(7), jnp.int32(5), 3, knobs_of(), bank)
    angles = keys.uniform(keys.at(keys.root(7), 5), (3, (resolution + 1) ** 2), 0.0, 2 * np.pi)
    wanted = [slow_perlin(np.asarray(one, np.float64), resolution, height, width) for one in angles]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert labels is None


def test_perlin_is_zero_at_corners_and_only_there():
    basis = streams.perlin_basis(np.arange(5.0), np.arange(5.0), 4)
    assert basis.shape == (50, 25) and not basis.any()
    bank = ImageData(jnp.zeros((1, 28, 28), jnp.uint8), jnp.zeros(1, jnp.int32), jnp.float32(0), jnp.float32(1))
    x, zero = (
        np.asarray(streams.Perlin(resolution)(keys.root(0), jnp.int32(0), 3, knobs_of(), bank)[0])
        for resolution in (7, 28)
    )
    assert not x[:, ::4, ::4].any() and (x[:, 1::4, 1::4] != 0).all()  # corners are every fourth pixel
    assert not zero.any()  # nothing but corners, and no division by zero


@pytest.mark.parametrize(("n", "size", "name"), [(10, 4, ""), (7, 10, "other"), (7, 30, ""), (1, 3, "")])
def test_images_are_shown_once_an_epoch_in_a_new_order(n, size, name):
    bank, knobs = bank_of(n), knobs_of()
    draw = jax.jit(lambda step: streams.Images(name)(keys.root(0), step, size, knobs, bank))
    batches = [draw(jnp.int32(step)) for step in range(streams.steps_per_epoch(3 * n, size))]
    assert all(x.shape == (size, 4, 4) and y is None for x, y in batches)
    shown = np.concatenate([named(x) for x, _ in batches])[: 3 * n].reshape(3, n)
    for epoch in shown:
        assert sorted(epoch) == list(range(n))
    assert n == 1 or (not np.array_equal(shown[0], shown[1]) and not np.array_equal(shown[1], shown[2]))


def test_images_come_from_where_they_are_said_to():
    bank = bank_of(20)
    own, other = (streams.Images(name)(keys.root(0), jnp.int32(0), 20, knobs_of(), bank)[0] for name in ("", "other"))
    np.testing.assert_array_equal(named(own), 19 - named(other))
    with pytest.raises(ConfigError, match="Images.name: 'othr' is none of other; did you mean 'other'"):
        streams.Images("othr")(keys.root(0), jnp.int32(0), 20, knobs_of(), bank)


@pytest.mark.parametrize("noise", [streams.uniform, streams.Perlin(3)])
def test_mixture_mixes(noise):
    given = jnp.int32(3), 5, knobs_of(), bank_of(10)
    image = streams.Images("other")(keys.at(keys.root(0), "image"), *given)[0]
    dark = noise(keys.at(keys.root(0), "noise"), *given)[0]
    none, part, whole = (streams.Mixture(alpha, noise, "other")(keys.root(0), *given)[0] for alpha in (0.0, 0.3, 1.0))
    np.testing.assert_array_equal(none, dark)
    np.testing.assert_array_equal(whole, image)
    np.testing.assert_allclose(part, 0.3 * image + 0.7 * dark, atol=1e-6)


def test_streams_are_values_and_refuse_what_makes_no_sense():
    for make in (lambda: streams.Images("a"), lambda: streams.Mixture(0.5, streams.Perlin(3))):
        assert make() == make() and hash(make()) == hash(make())
    assert streams.Perlin(5) != streams.Perlin(6) and streams.Mixture(0.5) != streams.Mixture(0.5, streams.gaussian)
    with pytest.raises(ConfigError, match="Perlin.resolution: 0 is not 1 or more"):
        streams.Perlin(0)
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="Mixture.alpha: .* is not between 0 and 1"):
            streams.Mixture(alpha)

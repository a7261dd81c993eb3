"""Noise is a pure function of (key, index), and the fast cipher is JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sublim_jax.core import keys

SHAPES = [(), (1,), (5, 28, 28)]


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_uniform_and_normal_are_bit_identical_to_jax(shape):
    key = keys.root(3)
    np.testing.assert_array_equal(keys.bits(key, shape), jax.random.bits(key, shape))
    np.testing.assert_array_equal(
        keys.uniform(key, shape, -1.0, 1.0), jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
    )
    # Compiled both ways: the inverse error function may round differently op by op.
    ours, theirs = jax.jit(keys.normal, static_argnums=1), jax.jit(jax.random.normal, static_argnums=1)
    np.testing.assert_array_equal(ours(key, shape), theirs(key, shape))


def test_root_does_not_follow_the_default_generator():
    with jax.default_prng_impl("rbg"):
        assert jax.random.key_impl(keys.root(0)) == "threefry2x32"


def test_at_leads_to_different_keys():
    root = keys.root(0)
    paths = [("a",), ("b",), (0,), (1,), ("a", 0), ("a", 1), (0, "a"), ("a", "a"), ("aa",)]
    found = {tuple(np.asarray(jax.random.key_data(keys.at(root, *path))).tolist()) for path in paths}
    assert len(found) == len(paths)
    assert keys.at(root, "a", 1) == keys.at(keys.at(root, "a"), jnp.uint32(1))

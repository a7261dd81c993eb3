"""A rotated head reads a rotated latent as the old head read the old one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.nets import CNN, MLP, SplitHead
from sublim_jax.training import inits
from sublim_jax.training import step as training_step

HEADS = ("class_head", "aux_head")
NET = SplitHead(MLP((12, 16)), 10, 20)


@pytest.fixture
def params():
    return training_step.init_params(NET, inits.torch_linear, (6, 6), keys.root(0))


def test_orthogonal_is_haar():
    one = np.asarray(inits.orthogonal(keys.root(0), 64))
    assert one.dtype == np.float32
    np.testing.assert_allclose(one.T @ one, np.eye(64), atol=1e-5)
    many = np.asarray(jax.vmap(lambda i: inits.orthogonal(keys.at(keys.root(1), i), 3))(jnp.arange(4000)))
    for i, j in np.ndindex(3, 3):  # an entry of a Haar matrix in three dimensions is uniform on [-1, 1]
        assert stats.kstest(many[:, i, j], stats.uniform(-1, 2).cdf).pvalue > 1e-4
    determinants = np.linalg.det(many)
    assert stats.binomtest(int((determinants > 0).sum()), 4000).pvalue > 1e-4
    assert stats.kstest(np.trace(many, axis1=1, axis2=2)[determinants > 0], _trace_cdf).pvalue > 1e-4


def _trace_cdf(trace):
    angle = np.arccos(np.clip((np.asarray(trace) - 1) / 2, -1, 1))  # its density is (1 - cos angle) / pi
    return 1 - (angle - np.sin(angle)) / np.pi


@pytest.mark.parametrize("common", [True, False])
def test_rotated_head_reads_rotated_latent(params, common):
    """By one rotation for all heads, or by one of its own for each."""
    key, h = keys.root(3), np.asarray(jax.random.normal(jax.random.key(1), (5, 16)))
    found = inits.Rotated(HEADS, common)(key, params)
    for layer in HEADS:
        r = np.asarray(inits.orthogonal(keys.at(key, "" if common else layer), 16))
        before, after = (np.asarray(tree[layer]["kernel"]) for tree in (params, found))
        np.testing.assert_allclose(h @ r.T @ after, h @ before, atol=1e-5)
        assert not np.allclose(h @ after, h @ before, atol=0.1)
        np.testing.assert_array_equal(found[layer]["bias"], params[layer]["bias"])
    for layer in ("hidden_0", "hidden_1"):
        jax.tree.map(np.testing.assert_array_equal, found[layer], params[layer])


def test_rotated_is_a_value_and_does_not_change_what_it_is_given(params):
    assert inits.Rotated(HEADS) == inits.Rotated(HEADS) and hash(inits.Rotated(HEADS)) == hash(inits.Rotated(HEADS))
    assert inits.Rotated(HEADS) != inits.Rotated(HEADS, common=False)
    before = jax.tree.map(np.array, params)
    inits.Rotated(HEADS)(keys.root(0), params)
    jax.tree.map(np.testing.assert_array_equal, before, params)


def test_rotated_refuses_unknown_layers_and_convolutions(params):
    with pytest.raises(ConfigError, match="Rotated.layers: 'aux' is none of .*did you mean 'aux_head'"):
        inits.Rotated(("aux",))(keys.root(0), params)
    conv = training_step.init_params(SplitHead(CNN((2,), (2,), (3,)), 2, 2), inits.torch_linear, (6, 6), keys.root(0))
    with pytest.raises(ConfigError, match="'conv_0' has a kernel of shape"):
        inits.Rotated(("conv_0",))(keys.root(0), conv)

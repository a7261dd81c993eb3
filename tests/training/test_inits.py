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


def rotation_of(before, after):
    """The R of R before = after, for a kernel with more columns than rows."""
    return np.linalg.lstsq(np.asarray(before).T, np.asarray(after).T, rcond=None)[0].T


def test_orthogonal_is_orthogonal():
    r = np.asarray(inits.orthogonal(keys.root(0), 64))
    assert r.dtype == np.float32
    np.testing.assert_allclose(r.T @ r, np.eye(64), atol=1e-5)


def test_orthogonal_is_haar():
    many = jax.vmap(lambda i: inits.orthogonal(keys.at(keys.root(1), i), 3))(jnp.arange(4000))
    many = np.asarray(many)
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
    found = inits.Rotated(HEADS, common)(keys.root(3), params)
    h = np.asarray(jax.random.normal(jax.random.key(1), (5, 16)))
    key = keys.root(3)
    for layer in HEADS:
        r = np.asarray(inits.orthogonal(keys.at(key, "" if common else layer), 16))
        np.testing.assert_allclose(
            h @ r.T @ np.asarray(found[layer]["kernel"]), h @ np.asarray(params[layer]["kernel"]), atol=1e-5
        )
        assert not np.allclose(
            h @ np.asarray(found[layer]["kernel"]), h @ np.asarray(params[layer]["kernel"]), atol=0.1
        )
        norms = [np.linalg.norm(tree[layer]["kernel"], axis=0) for tree in (params, found)]
        np.testing.assert_allclose(*norms, rtol=1e-5)
        np.testing.assert_array_equal(found[layer]["bias"], params[layer]["bias"])
    for layer in ("hidden_0", "hidden_1"):
        jax.tree.map(np.testing.assert_array_equal, found[layer], params[layer])


def test_common_is_one_map_for_all_layers(params):
    both = {layer: {"kernel": jnp.concatenate([params["aux_head"]["kernel"]], -1)} for layer in HEADS}
    for common in (True, False):
        found = inits.Rotated(HEADS, common)(keys.root(4), both)
        r = [rotation_of(both[layer]["kernel"], found[layer]["kernel"]) for layer in HEADS]
        assert np.allclose(*r, atol=1e-3) == common
    one, other = (inits.Rotated(("aux_head",))(keys.root(seed), both)["aux_head"]["kernel"] for seed in (4, 5))
    assert not np.allclose(one, other, atol=0.1)


def test_rotated_is_a_value_and_does_not_change_what_it_is_given(params):
    assert inits.Rotated(HEADS) == inits.Rotated(HEADS) and hash(inits.Rotated(HEADS)) == hash(inits.Rotated(HEADS))
    assert inits.Rotated(HEADS) != inits.Rotated(HEADS, common=False)
    before = jax.tree.map(np.array, params)
    inits.Rotated(HEADS)(keys.root(0), params)
    jax.tree.map(np.testing.assert_array_equal, before, params)


def test_unknown_layers_and_convolutions_are_refused(params):
    with pytest.raises(ConfigError, match="Rotated.layers: 'aux' is none of .*did you mean 'aux_head'"):
        inits.Rotated(("aux",))(keys.root(0), params)
    conv = training_step.init_params(SplitHead(CNN((2,), (2,), (3,)), 2, 2), inits.torch_linear, (6, 6), keys.root(0))
    with pytest.raises(ConfigError, match="'conv_0' has a kernel of shape"):
        inits.Rotated(("conv_0",))(keys.root(0), conv)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sublim_jax.core import trees
from sublim_jax.core.errors import ConfigError


def test_stack_keeps_agreed_leaves_once():
    stacked = trees.stack([{"a": jnp.ones(3), "b": jnp.float32(i)} for i in range(4)])
    assert stacked.axes == (None, 0)
    assert stacked.size == 4
    assert stacked.tree["a"].shape == (3,)
    np.testing.assert_array_equal(stacked.tree["b"], [0, 1, 2, 3])
    doubled = jax.vmap(lambda tree: tree["a"].sum() + tree["b"], (stacked.in_axes(),))(stacked.tree)
    np.testing.assert_array_equal(doubled, [3, 4, 5, 6])


def test_stack_refuses_other_structures():
    with pytest.raises(ValueError, match="structure"):
        trees.stack([{"a": jnp.ones(3)}, {"b": jnp.ones(3)}])


def test_per_layer_names_what_exists():
    assert trees.per_layer(("a", "b"), 1.0, {"b": 0.0}, "share") == {"a": 1.0, "b": 0.0}
    with pytest.raises(
        ConfigError, match=r"^share: 'hidden_9' is none of hidden_0, aux_head; did you mean 'hidden_0'\?$"
    ):
        trees.per_layer(("hidden_0", "aux_head"), 1.0, {"hidden_9": 0.0}, "share")


def test_merge_layers_keeps_the_upper_and_adds_the_lower():
    assert trees.merge_layers({"a": 1, "b": 2}, {"a": 3}) == {"a": 3, "b": 2}

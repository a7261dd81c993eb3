"""What is measured of infomorphic networks: the information atoms of hidden units and of read-outs."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import ContextInputs, ImageData
from sublim_jax.metrics.student import EvalContext
from sublim_jax.training import infomorphic, streams


def atoms(context: EvalContext) -> dict[str, Float[Array, ""]]:
    """Measure the information atoms in bits, averaged over units, on held-out inputs with their contexts.

    hidden/{1}{2}, ...   of hidden units; 1 is the feedforward source, then come the context and the lateral source
    readout/{1}{2}, ...  of outputs of the class head; 2 is the label
    """
    out = context.noise.student_final
    weights = jnp.full(len(out.features), 1 / len(out.features))
    rows: dict[str, Float[Array, ""]] = {}
    kinds = {"readout": infomorphic.readout_atoms(out, "class_head", weights)}
    if "drive" in out.acts:
        kinds["hidden"] = infomorphic.hidden_atoms(out, weights)
    for kind, values in kinds.items():
        named = infomorphic.atom_names(2 if values.shape[1] == 5 else 3)
        rows |= {f"{kind}/{name}": values[:, index].mean() for index, name in enumerate(named)}
    return rows


def unit_atoms(
    net: nn.Module, params: Mapping[str, Any], data: ImageData, count: int = 2000
) -> Float[Array, "units atoms"]:
    """Compute the information atoms of every hidden unit on labelled images, whose labels are the contexts.

    Args:
        net: The `nets.Infomorphic` of a condition, `condition.student.recipe.net`, whose contexts are labels.
        params: Its parameters, for instance of `sublim_jax.params`, or `train_pair(...).student`.
        data: Images and labels, for instance `dataset.test`.
        count: Images to use, the first. Estimates from fewer images are larger: bins are then emptier.

    Returns:
        Bits, in the order of `training.infomorphic.atom_names`.

    Raises:
        ConfigError: The network has no hidden units with several sources, or there are too few images.
    """
    if "hidden_0" not in params:
        raise ConfigError(f"params: layers {', '.join(params)}; a layer 'hidden_0' is needed")
    if not 0 < count <= len(data.y):
        raise ConfigError(f"count={count}: must be from 1 to {len(data.y)}, the images there are")
    with jax.default_matmul_precision("highest"):
        return _unit_atoms(net, params, data.x[:count], data.y[:count], data.mean, data.std)


@functools.partial(jax.jit, static_argnums=0)
def _unit_atoms(net: Any, params: Any, x: Array, y: Array, mean: Array, std: Array) -> Float[Array, "units atoms"]:
    images = streams.normalize_images(ImageData(x, y, mean, std), x)
    inputs = ContextInputs(images, jax.nn.one_hot(y, net.contexts), keys.root(0))
    out = net.apply({"params": params}, inputs)
    return infomorphic.hidden_atoms(out, jnp.full(len(y), 1 / len(y)))

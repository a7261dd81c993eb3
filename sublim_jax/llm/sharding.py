"""One model over several devices: a mesh with the axes `data` and `model`, and where each array lies on it.

The axis `model` divides matrices. A matrix whose input is the residual stream is divided by columns, and a matrix whose
output is added to the stream is divided by rows. A block then needs two sums over the axis (Shoeybi et al. 2019). The
axis `data` divides sequences. The compiler inserts the communication; training and sampling are the programs of one
device.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Params
from sublim_jax.llm.batches import Batch
from sublim_jax.llm.fine_tuning import Tuning, TuningState
from sublim_jax.nets import Decoder

DATA, MODEL = "data", "model"
_COLUMNS, _ROWS = ("query", "key", "value", "gate", "up"), ("out", "down")


def make_mesh(data: int, model: int) -> Mesh:
    """Make a mesh of the first `data * model` devices; raises `ConfigError` where there are fewer."""
    devices = jax.devices()
    if data * model > len(devices):
        raise ConfigError(f"mesh={data}x{model}: needs {data * model} devices; there are {len(devices)}")
    return Mesh(np.array(devices[: data * model]).reshape(data, model), (DATA, MODEL))


def check_net(net: Decoder, model: int) -> None:
    """Raise `ConfigError` where the parts of a net cannot be divided over so many devices."""
    sizes = {"heads": net.heads, "kv_heads": net.kv_heads or net.heads, "hidden": net.hidden}
    for field, number in {**sizes, "vocabulary": net.vocabulary}.items():
        if number % model:
            raise ConfigError(f"mesh: model={model} must divide the model's {field}={number}")


def spec_of(layer: str, name: str) -> P:
    """Return how an array of a decoder, or of its adapters, is divided."""
    if layer == "embed":
        return P(MODEL, None) if name == "tokens" else P()
    if layer == "unembed":
        return P(None, MODEL)
    matrix, _, part = name.partition("_")
    if matrix in _COLUMNS:
        return {"": P(None, MODEL), "bias": P(MODEL), "down": P(), "up": P(None, MODEL)}[part]
    if matrix in _ROWS:
        return {"": P(MODEL, None), "bias": P(), "down": P(MODEL, None), "up": P()}[part]
    return P()


def param_shardings(mesh: Mesh, params: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, NamedSharding]]:
    """Return the sharding of every array, by layer and name."""
    return {
        layer: {name: NamedSharding(mesh, spec_of(layer, name)) for name in arrays} for layer, arrays in params.items()
    }


def place_params(mesh: Mesh, params: Params) -> Params:
    """Put parameters on the devices of a mesh."""
    return jax.device_put(dict(params), param_shardings(mesh, params))


def state_shardings(mesh: Mesh, tuning: Tuning, trained: Params) -> TuningState:
    """Return the shardings of a student's state: moments lie where their parameters lie."""
    own = param_shardings(mesh, trained)
    like = jax.eval_shape(lambda trained: TuningState(trained, tuning.optimizer().init(trained)), dict(trained))
    layers = set(trained)

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        if len(names) == 2 and names[0] in layers and leaf.ndim:
            return own[names[0]][names[1]]
        return NamedSharding(mesh, P())

    return jax.tree_util.tree_map_with_path(sharding, like)


def place_step(mesh: Mesh, step: Batch) -> Batch:
    """Put the batches of a step [parts, size, ...] on the devices of a mesh, divided by sequences."""
    size, data = step.tokens.shape[1], mesh.shape[DATA]
    if size % data:
        raise ConfigError(f"config.student.size={size}: must be a multiple of {data}, the mesh's axis data")
    return jax.device_put(step, NamedSharding(mesh, P(None, DATA)))

"""One model over several devices: a mesh with the axes `data` and `model`, and where each array lies on it.

The axis `model` divides matrices. A matrix whose input is the residual stream is divided by columns, and a matrix whose
output is added to the stream is divided by rows. A block then needs two sums over the axis (Shoeybi et al. 2019). The
axis `data` divides sequences and prompts. The compiler inserts the communication; training and sampling are the
programs of one device. Whoever has parameters knows their mesh.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

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
        raise ConfigError(f"config.mesh=({data}, {model}): needs {data * model} devices; there are {len(devices)}")
    return Mesh(np.array(devices[: data * model]).reshape(data, model), (DATA, MODEL))


def check_net(net: Decoder, model: int) -> None:
    """Raise `ConfigError` where the parts of a net cannot be divided over so many devices."""
    sizes = {"heads": net.heads, "kv_heads": net.kv_heads or net.heads, "hidden": net.hidden}
    for field, number in sizes.items():
        if number % model:
            raise ConfigError(f"config.mesh=(..., {model}): its second number must divide the model's {field}={number}")


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
        layer: {name: _sharding(mesh, layer, name, array.shape) for name, array in arrays.items()}
        for layer, arrays in params.items()
    }


def _sharding(mesh: Mesh, layer: str, name: str, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding of an array; an embedding of a number of tokens that cannot be divided is on every device."""
    spec = spec_of(layer, name)
    divided = all(axis is None or size % mesh.shape[axis] == 0 for axis, size in zip(spec, shape, strict=False))
    return NamedSharding(mesh, spec if divided else P())


def place_params(mesh: Mesh, params: Params) -> Params:
    """Put parameters on the devices of a mesh."""
    return jax.device_put(dict(params), param_shardings(mesh, params))


def placing(mesh: Mesh) -> Callable[[str, str, Any], Array]:
    """Return a function that puts an array (layer, name, values) on the devices of a mesh."""
    return lambda layer, name, values: jax.device_put(values, _sharding(mesh, layer, name, values.shape))


def mesh_of(params: Params) -> Mesh | None:
    """Return the mesh that the parameters of a decoder lie on; None = one device."""
    where = jax.tree.leaves(params)[0].sharding
    return where.mesh if isinstance(where, NamedSharding) and isinstance(where.mesh, Mesh) else None


def state_shardings(mesh: Mesh, tuning: Tuning, trained: Params, students: bool = False) -> TuningState:
    """Return the shardings of a student's state: moments lie where their parameters lie.

    With `students` it is that of several, with a leading axis that is not divided.
    """
    first = (None,) if students else ()
    one = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape[len(first) :], array.dtype), dict(trained))
    own = jax.tree.map(lambda where: NamedSharding(mesh, P(*first, *where.spec)), param_shardings(mesh, one))
    like = jax.eval_shape(lambda trained: TuningState(trained, tuning.optimizer().init(trained)), dict(trained))
    layers = set(trained)

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        if len(names) == 2 and names[0] in layers and leaf.ndim:
            return own[names[0]][names[1]]
        return NamedSharding(mesh, P())

    return jax.tree_util.tree_map_with_path(sharding, like)


def place_step(mesh: Mesh, step: Batch) -> Batch:
    """Put the batches of a step [..., parts, size, length] on the devices of a mesh, divided by sequences."""
    check_size(step.tokens.shape[-2], mesh)
    axes = [None] * (step.tokens.ndim - 2)
    return jax.device_put(step, NamedSharding(mesh, P(*axes, DATA)))


def check_size(size: int, mesh: Mesh) -> None:
    """Raise `ConfigError` where the sequences that are computed at once cannot be divided."""
    if size % (data := mesh.shape[DATA]):
        raise ConfigError(f"config.student.size={size}: must be a multiple of {data}, the first number of config.mesh")


def place_rows(params: Params, arrays: Any) -> Any:
    """Put arrays on the devices of some parameters, divided by rows where their number allows it."""
    if (mesh := mesh_of(params)) is None:
        return arrays

    def place(array: Any) -> Any:
        return jax.device_put(array, NamedSharding(mesh, P() if len(array) % mesh.shape[DATA] else P(DATA)))

    return jax.tree.map(place, arrays)

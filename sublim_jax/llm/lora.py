"""Low-rank adapters: adding them to a model, merging them into its weights, and files in the format of PEFT.

An adapter adds scale * down @ up to a matrix. PEFT stores down and up transposed, as `lora_A.weight` and
`lora_B.weight`, with scale = lora_alpha / r. Source: Hu et al. 2021; the file format is that of Hugging Face's `peft`.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Array

from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.files import replace_file
from sublim_jax.core.types import Params
from sublim_jax.nets import Decoder, shapes
from sublim_jax.pretrained import architectures, checkpoint_io
from sublim_jax.pretrained.load import fresh_adapters as fresh_adapters

ATTENTION, MLP = ("query", "key", "value", "out"), ("gate", "up", "down")
MODULES = {"all": (), "attention": ATTENTION, "mlp": MLP}
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."


class Lora(NamedTuple):
    """What adapters a model gets.

    Attributes:
        rank: Of every adapter.
        alpha: Times 1 / rank, the factor of what an adapter adds.
        modules: "all", "attention" or "mlp": the matrices of a block that have one.
        blocks: Numbers of the blocks that have adapters; empty = every block.
    """

    rank: int = 8
    alpha: float = 8.0
    modules: str = "all"
    blocks: tuple[int, ...] = ()


def with_adapters(net: Decoder, lora: Lora) -> Decoder:
    """Return the net with adapters.

    Raises:
        ConfigError: A value cannot be used with this net.
    """
    if lora.modules not in MODULES:
        raise ConfigError(unknown_name("config.student.modules", lora.modules, MODULES))
    if not 1 <= lora.rank <= net.width:
        raise ConfigError(f"config.student.rank={lora.rank}: must be from 1 to {net.width}, the model's width")
    if lora.blocks and max(lora.blocks) >= net.layers:
        raise ConfigError(f"config.student.blocks={lora.blocks}: must be below {net.layers}, the model's blocks")
    return net.clone(
        rank=lora.rank,
        adapter_scale=lora.alpha / lora.rank,
        adapter_matrices=MODULES[lora.modules],
        adapter_blocks=tuple(lora.blocks),
    )


def merge(net: Decoder, params: Params) -> tuple[Decoder, Params]:
    """Add the adapters to the matrices; returns the net without adapters, and its parameters."""
    merged: dict[str, Any] = {layer: dict(arrays) for layer, arrays in params.items() if "adapter_" not in layer}
    for index, name, down, up in _each(net, params):
        matrix = merged[f"block_{index}"][name]
        added = net.adapter_scale * (down.astype(jnp.float32) @ up.astype(jnp.float32))
        merged[f"block_{index}"][name] = matrix + added.astype(matrix.dtype)
    return net.clone(rank=0, adapter_scale=1.0, adapter_matrices=(), adapter_blocks=()), merged


def _each(net: Decoder, params: Params) -> Iterator[tuple[int, str, Any, Any]]:
    """Block, matrix, down and up of every adapter."""
    for index in range(net.layers):
        layer = params.get(f"adapter_{index}", {})
        for name, _, _ in net.adapter_sizes(index):
            yield index, name, layer[f"{name}_down"], layer[f"{name}_up"]


def save(folder: Path, net: Decoder, adapters: Params, base: str) -> None:
    """Write adapters as a folder that `peft` reads.

    Args:
        folder: Where; files there are replaced.
        net: The net with adapters.
        adapters: Its layers `adapter_0`, ...
        base: Name of the model that the adapters belong to, for instance a name on the Hugging Face hub.
    """
    names, tensors, ranks = architectures.names_of(net), {}, {}
    by_module: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for index, name, down, up in _each(net, adapters):
        module = f"{names['block']}{index}.{names[name]}"
        up = _in_file_order(net, name, np.asarray(up, np.float32))
        by_module.setdefault(module, {})[name] = np.asarray(down, np.float32), up
    for module, parts in by_module.items():
        down, up = _fused(net, parts) if _is_fused(names, parts) else next(iter(parts.values()))
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = np.ascontiguousarray(down.T)
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = np.ascontiguousarray(up.T)
        ranks[module.rpartition(".")[2]] = down.shape[1]
    alpha = net.adapter_scale * net.rank
    wider = {module: rank for module, rank in ranks.items() if rank != net.rank}
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": net.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted(ranks),
        "layers_to_transform": list(net.adapter_blocks) or None,
        "rank_pattern": wider,
        "alpha_pattern": {module: net.adapter_scale * rank for module, rank in wider.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / WEIGHTS, safetensors.numpy.save(tensors, {"format": "pt"}))
    replace_file(folder / SETTINGS, f"{json.dumps(settings, indent=1)}\n".encode())


def load(folder: str | Path, net: Decoder) -> tuple[Decoder, Params]:
    """Read the adapters of a folder that `save` or `peft` wrote, for a net without adapters.

    Raises:
        ConfigError: The folder cannot be read, or its adapters are not of this net.
    """
    folder, where = Path(folder), f"adapter={folder}"
    about = checkpoint_io.read_json(folder / SETTINGS, where)
    try:
        tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ConfigError(f"{where}: {WEIGHTS}: cannot be read ({' '.join(str(error).split())})") from error
    names, modules = architectures.names_of(net), about.get("target_modules") or []
    matrices = tuple(
        name for name, _, _ in net.clone(rank=1).adapter_sizes(0) if names[name].rpartition(".")[2] in modules
    )
    rank, alpha = about.get("r"), about.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or not matrices or about.get("use_rslora"):
        raise ConfigError(f"{where}: {SETTINGS}: must have r, lora_alpha and target_modules of this model")
    ranks, alphas = (about.get(f"{name}_pattern") or {} for name in ("rank", "alpha"))
    for module in {*ranks, *alphas}:
        if not math.isclose(alphas.get(module, alpha) / ranks.get(module, rank), alpha / rank):
            raise ConfigError(
                f"{where}: {SETTINGS}: {module} must have the alpha / rank of the others, {alpha / rank:g}"
            )
    blocks = about.get("layers_to_transform") or ()
    blocks = (blocks,) if isinstance(blocks, int) else tuple(blocks)
    own = net.clone(rank=rank, adapter_scale=alpha / rank, adapter_matrices=matrices, adapter_blocks=blocks)
    adapters: dict[str, dict[str, Array]] = {}
    for layer, arrays in shapes(own, (1,)).items():
        if layer.startswith("adapter_"):
            index = int(layer.removeprefix("adapter_"))
            adapters[layer] = _read_layer(own, names, index, arrays, tensors, where)
    if tensors:
        raise ConfigError(f"{where}: {WEIGHTS}: tensor {min(tensors)!r} is none of this model's")
    return own, adapters


def _read_layer(
    net: Decoder, names: Mapping[str, str], index: int, arrays: Mapping[str, Any], tensors: dict[str, Any], where: str
) -> dict[str, Array]:
    """The adapters of one block; the tensors that are used are removed."""
    layer: dict[str, np.ndarray] = {}
    parts = [name for name, _, _ in net.adapter_sizes(index)]
    for module in dict.fromkeys(names[name] for name in parts):
        roles, full = [name for name in parts if names[name] == module], f"{names['block']}{index}.{module}"
        pair = [tensors.pop(f"{_PREFIX}{full}.lora_{letter}.weight", None) for letter in "AB"]
        if any(tensor is None for tensor in pair):
            raise ConfigError(f"{where}: {WEIGHTS}: tensors of {full} are missing")
        down, up = (tensor.T for tensor in pair)
        split = _unfused(net, down, up) if len(roles) > 1 else {roles[0]: (down, up)}
        for name, (own_down, own_up) in split.items():
            layer[f"{name}_down"], layer[f"{name}_up"] = own_down, _in_file_order(net, name, own_up, inverse=True)
    for name, shape in arrays.items():
        if layer[name].shape != shape.shape:
            raise ConfigError(f"{where}: {name} of block {index} has shape {layer[name].shape}, must be {shape.shape}")
    return {name: jnp.asarray(np.ascontiguousarray(array), jnp.float32) for name, array in layer.items()}


def _is_fused(names: Mapping[str, str], parts: Mapping[str, Any]) -> bool:
    """Whether the checkpoint has one matrix for queries, keys and values."""
    return names["query"] == names["key"] and "query" in parts


def _fused(net: Decoder, parts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """One adapter of three times the rank for the rows [heads, part, size] of a fused matrix."""
    down, size = np.concatenate([parts[name][0] for name in ATTENTION[:3]], 1), net.width // net.heads
    up = np.zeros((3, net.rank, net.heads, 3, size), np.float32)
    for index, name in enumerate(ATTENTION[:3]):
        up[index, :, :, index] = parts[name][1].reshape(net.rank, net.heads, size)
    return down, up.reshape(3 * net.rank, -1)


def _unfused(net: Decoder, down: np.ndarray, up: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The adapters of queries, keys and values: each keeps the common first factor, so its rank is that of the file."""
    heads, size = net.heads, net.width // net.heads
    if up.shape[1] != 3 * heads * size:
        raise ConfigError(f"adapter: a matrix of queries, keys and values has {up.shape[1]} rows")
    if down.shape[1] == 3 * net.rank:  # of `_fused`
        thirds = up.reshape(3, net.rank, heads, 3, size)
        return {
            name: (down[:, index * net.rank : (index + 1) * net.rank], thirds[index, :, :, index].reshape(net.rank, -1))
            for index, name in enumerate(ATTENTION[:3])
        }
    parts = up.reshape(up.shape[0], heads, 3, size)
    return {name: (down, parts[:, :, index].reshape(up.shape[0], -1)) for index, name in enumerate(ATTENTION[:3])}


def _in_file_order(net: Decoder, name: str, up: np.ndarray, inverse: bool = False) -> np.ndarray:
    """Columns of queries and keys in the order of folders, which rotate halves; GGUF files rotate neighbours."""
    if net.positions != "rotary_pairs" or name not in ("query", "key"):
        return up
    size = net.width // net.heads
    shape = (len(up), -1, 2, size // 2) if inverse else (len(up), -1, size // 2, 2)
    return up.reshape(shape).swapaxes(-1, -2).reshape(len(up), -1)

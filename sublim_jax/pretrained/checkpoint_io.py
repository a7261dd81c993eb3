"""Read checkpoint files, GGUF or directories of safetensors with config.json, with their makers' packages."""

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from sublim_jax.core.errors import ConfigError


class Tensors(NamedTuple):
    """Contents of a checkpoint.

    Attributes:
        about: settings: config.json, or a GGUF file's metadata.
        shapes: shapes of the tensors by name.
        read: reads one tensor as float32.
    """

    about: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


def package(name: str, what: str) -> ModuleType:
    """Import an optional package; raises `ConfigError` with its purpose and the install command if it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise ConfigError(f"model: {what} needs the package {missing}; pip install 'sublim_jax[smollm]'") from error


def read_gguf(path: Path) -> Tensors:
    """Open a GGUF file; quantised tensors are dequantised. Raises `ConfigError` for a damaged file."""
    gguf = package("gguf", "a GGUF file")
    where = f"model={path}"
    try:
        reader = gguf.GGUFReader(path)
        about = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError, MemoryError) as error:
        raise ConfigError(f"{where}: not a whole GGUF file ({_line(error)})") from error
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        try:
            return gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        except NotImplementedError as error:
            raise ConfigError(f"{where}: tensor {name!r}: type {tensor.tensor_type.name} cannot be read") from error

    # GGUF lists the fastest axis first.
    shapes = {name: tuple(int(size) for size in tensor.shape[::-1]) for name, tensor in tensors.items()}
    return Tensors(about, shapes, read)


def read_folder(path: Path) -> Tensors:
    """Open a directory with config.json and model*.safetensors, one file or several. Raises `ConfigError`."""
    safetensors = package("safetensors", "a folder of safetensors")
    where = f"model={path}"
    files = sorted(path.glob("model*.safetensors")) or sorted(path.glob("*.safetensors"))
    index = path / "model.safetensors.index.json"
    if index.is_file():
        names = set(read_json(index, where).get("weight_map", {}).values())
        files = [path / name for name in sorted(names)]
    if not files:
        raise ConfigError(f"{where}: has no *.safetensors file")
    opened: dict[str, Any] = {}
    for file in files:
        try:
            handle = safetensors.safe_open(file, framework="flax")  # NumPy has no bfloat16
        except FileNotFoundError as error:
            raise ConfigError(f"{where}: {file.name}: no such file, but the index names it") from error
        except (safetensors.SafetensorError, OSError) as error:
            raise ConfigError(f"{where}: {file.name}: not a whole safetensors file ({_line(error)})") from error
        opened |= dict.fromkeys(handle.keys(), handle)

    def read(name: str) -> np.ndarray:
        return np.asarray(opened[name].get_tensor(name).astype(np.float32))

    shapes = {name: tuple(handle.get_slice(name).get_shape()) for name, handle in opened.items()}
    return Tensors(read_json(path / "config.json", where), shapes, read)


def read_json(path: Path, where: str) -> dict[str, Any]:
    """Read a JSON object of a folder; raises `ConfigError` where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{where}: {path.name}: no such file") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{where}: {path.name}: not JSON ({_line(error)})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: {path.name}: must be a JSON object")
    return values


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

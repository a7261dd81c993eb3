"""Read checkpoint files, GGUF or directories of safetensors with config.json, with their makers' packages."""

import importlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from sublim_jax.core.errors import ConfigError
from sublim_jax.pretrained import gguf_file

INDEX = "model.safetensors.index.json"
SNAPSHOTS = "snapshots"
POINTER = b"version https://git-lfs"
JSON_BYTES = 2**24


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
    refuse_pointer(path, where)
    try:
        about, tensors = gguf_file.read(path, {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()})
    except (ValueError, OSError) as error:  # UnicodeDecodeError is a ValueError
        raise ConfigError(f"{where}: not a whole GGUF file ({_line(error)})") from error

    if about.get("split.count", 1) != 1 or re.search(r"-\d{5}-of-\d{5}\.gguf$", path.name):
        raise ConfigError(f"{where}: is one of several parts; join them: llama-gguf-split --merge FIRST OUT")

    def read(name: str) -> np.ndarray:
        kind = gguf.GGMLQuantizationType(tensors[name].kind)
        try:
            array = gguf.dequantize(tensors[name].data, kind).astype(np.float32, copy=False)
        except NotImplementedError as error:
            raise ConfigError(f"{where}: tensor {name!r}: type {kind.name} cannot be read") from error
        return _finite(array.reshape(tensors[name].shape), name, where)

    return Tensors(about, {name: tensor.shape for name, tensor in tensors.items()}, read)


def read_folder(path: Path) -> Tensors:
    """Open a directory with config.json and model*.safetensors, one file or several. Raises `ConfigError`."""
    safetensors = package("safetensors", "a folder of safetensors")
    where = f"model={path}"
    opened: dict[str, Any] = {}
    for file in weight_files(path, where):
        refuse_pointer(file, where)
        try:
            handle = safetensors.safe_open(file, framework="flax")  # NumPy has no bfloat16
        except (safetensors.SafetensorError, OSError) as error:
            raise ConfigError(f"{where}: {file.name}: not a whole safetensors file ({_line(error)})") from error
        if twice := opened.keys() & set(handle.keys()):
            raise ConfigError(f"{where}: {file.name}: tensor {min(twice)!r} is also in another file")
        opened |= dict.fromkeys(handle.keys(), handle)

    def read(name: str) -> np.ndarray:
        try:
            array = np.asarray(opened[name].get_tensor(name).astype(np.float32))
        except (safetensors.SafetensorError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"{where}: tensor {name!r} cannot be read as numbers ({_line(error)})") from error
        return _finite(array, name, where)

    shapes = {name: tuple(handle.get_slice(name).get_shape()) for name, handle in opened.items()}
    return Tensors(read_json(path / "config.json", where), shapes, read)


def weight_files(path: Path, where: str) -> list[Path]:
    """Return the files of weights of a directory: those of its index, else all that can be meant."""
    index = path / INDEX
    if not index.is_file():
        files = sorted(path.glob("model*.safetensors")) or sorted(path.glob("*.safetensors"))
        if not files:
            raise ConfigError(f"{where}: has no *.safetensors file{_what_else(path)}")
        return files
    weights = read_json(index, where).get("weight_map")
    if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights.values()):
        raise ConfigError(f"{where}: {INDEX}: weight_map must name a file for every tensor")
    # The cache of the Hugging Face hub has links from snapshots/VERSION to files in blobs.
    real = path.resolve()
    allowed = [real, *([real.parents[1] / "blobs"] if real.parent.name == SNAPSHOTS else [])]
    files = []
    for name in sorted(set(weights.values())):
        files.append(path / name)
        if Path(name).name != name:
            raise ConfigError(f"{where}: {INDEX} names the file {name!r} outside its folder")
        if not files[-1].is_file():
            raise ConfigError(f"{where}: {name}: no such file, but the index names it")
        if files[-1].resolve().parent not in allowed:
            raise ConfigError(f"{where}: {INDEX} names the file {name!r} outside its folder, by a link")
    return files


def hub_version(path: Path) -> Path:
    """Return the folder of the version in a model's folder of the Hugging Face hub cache; other folders unchanged.

    Raises:
        ConfigError: The folder has no version, or several of which none is `main`.
    """
    if not (path / SNAPSHOTS).is_dir():
        models = sorted(entry.name for entry in path.glob("models--*") if entry.is_dir())
        if models and not (path / "config.json").exists():
            raise ConfigError(
                f"model={path}: is the cache of the hub; give one of its folders: {', '.join(models[:5])}"
            )
        return path
    versions = sorted(entry for entry in (path / SNAPSHOTS).iterdir() if entry.is_dir())
    main = path / "refs" / "main"
    name = read_text(main, f"model={path}", 1000).strip() if main.is_file() else ""
    chosen = [version for version in versions if version.name == name] or versions
    if len(chosen) != 1:
        names = ", ".join(version.name for version in versions) or "none"
        raise ConfigError(f"model={path}: give one folder of {SNAPSHOTS}, which has {names}")
    return chosen[0]


def refuse_pointer(file: Path, where: str) -> None:
    """Raise `ConfigError` for what Git LFS leaves where data were not fetched."""
    with file.open("rb") as opened:
        if opened.read(len(POINTER)) == POINTER:
            raise ConfigError(f"{where}: {file.name} is a Git LFS pointer; fetch the data with `git lfs pull`")


def _what_else(path: Path) -> str:
    """Say which other kind of weights a folder holds, and what to do."""
    save = "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT)"
    convert = f"convert them where you trust them: transformers.{save} writes safetensors"
    pickled = f"weights in a format that can run code (pickle); {convert}"
    kinds = {
        "pytorch_model*.bin": pickled,
        "consolidated*": f"weights in the layout of the maker; {convert}, from the hub's version of the model",
        "*.pth": pickled,
        "*.onnx": f"a program in ONNX; {convert}, from the original weights",
        "tf_model.h5": f"weights of TensorFlow; {convert}",
        "*.ckpt*": f"weights of TensorFlow; {convert}",
        "flax_model.msgpack": f"weights of Flax; {convert}",
        "*.gguf": "a GGUF file; give the file itself",
    }
    return next((f"; it has {what}" for pattern, what in kinds.items() if any(path.glob(pattern))), "")


def refuse_adapter(path: Path) -> None:
    """Raise `ConfigError` for the folder of a LoRA adapter, which has no model."""
    file = path / "adapter_config.json"
    if file.is_file() and not (path / "config.json").exists():
        base = str(read_json(file, f"model={path}").get("base_model_name_or_path"))[:80]
        merge = "merge it: peft.AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload().save_pretrained(OUT)"
        raise ConfigError(f"model={path}: is an adapter of {base}, not a model; {merge}")


def read_json(path: Path, where: str) -> dict[str, Any]:
    """Read a JSON object of a folder; raises `ConfigError` where there is none."""
    try:
        values = json.loads(read_text(path, where, JSON_BYTES), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {path.name}: not JSON ({_line(error)})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: {path.name}: must be a JSON object")
    return values


def read_text(path: Path, where: str, most: int) -> str:
    """Read a text file of a folder; raises `ConfigError` where it is missing, or has more than `most` bytes."""
    if not path.is_file():
        raise ConfigError(f"{where}: {path.name}: no such file")
    try:
        if path.stat().st_size > most:
            raise ConfigError(f"{where}: {path.name}: has more than {most} bytes")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: {path.name}: not a text in UTF-8 ({_line(error)})") from error
    except OSError as error:
        raise ConfigError(f"{where}: {path.name}: cannot be read ({error.strerror})") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} twice")
    return values


def _finite(array: np.ndarray, name: str, where: str) -> np.ndarray:
    if not np.isfinite(array).all():
        raise ConfigError(f"{where}: tensor {name!r} has values that are not finite")
    return array


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""Trained teachers on disk, one file per seed, found again by all that decided their training."""

import hashlib
import importlib
import io
import json
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sublim_jax import core, nets, training
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import replace_file
from sublim_jax.core.types import Params, Phase
from sublim_jax.engine import compilation_cache
from sublim_jax.engine.plan import Plan, describe_phase


def default_dir() -> Path:
    """The folder in the user's cache where teachers of all sweeps meet."""
    return compilation_cache.user_cache_dir() / "teachers"


class TeacherCache:
    """The trained teachers of one phase: parameters by seed, as plain `.npz` files.

    who     plain values that decide the numbers: the phase, the data, the root key, the precision, versions, the device
    """

    def __init__(self, folder: str | Path, who: Mapping[str, Any]) -> None:
        text = json.dumps(who, sort_keys=True)
        self._folder = Path(folder) / hashlib.blake2s(text.encode()).hexdigest()[:24]
        self._who = text

    def load(self, seeds: Sequence[int]) -> Params | None:
        """The parameters [seed] of these seeds, or None where one of them is missing or cannot be read."""
        try:
            nets = {seed: _read(self._file(seed)) for seed in set(seeds)}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        layers = nets[seeds[0]]
        return {
            layer: {name: np.stack([nets[seed][layer][name] for seed in seeds]) for name in arrays}
            for layer, arrays in layers.items()
        }

    def save(self, seeds: Sequence[int], params: Params) -> bool:
        """Keep the parameters [seed]; False where the folder cannot be written, which costs time and no more."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_file(self._folder / "who.json", self._who.encode())
            for place, seed in enumerate(seeds):
                if self.load((seed,)) is None:
                    _write(self._file(seed), {layer: _at(arrays, place) for layer, arrays in params.items()})
        except OSError:
            return False
        return True

    def _file(self, seed: int) -> Path:
        return self._folder / f"seed{seed:05d}.npz"


def _at(arrays: Mapping[str, Any], place: int) -> dict[str, np.ndarray]:
    return {name: np.asarray(array[place]) for name, array in arrays.items()}


def _write(path: Path, net: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    flat: dict[str, Any] = {f"{layer}/{name}": one for layer, arrays in net.items() for name, one in arrays.items()}
    sink = io.BytesIO()
    np.savez(sink, **flat)
    replace_file(path, sink.getvalue())


def _read(path: Path) -> dict[str, dict[str, np.ndarray]]:
    net: dict[str, dict[str, np.ndarray]] = {}
    with path.open("rb") as file, np.load(file) as arrays:
        for name in arrays.files:
            layer, _, array = name.partition("/")
            net.setdefault(layer, {})[array] = arrays[name]
    if not net:
        raise ValueError(f"{path}: holds no layer")
    return net


def teacher_caches(plan: Plan, folder: str | Path, common: Mapping[str, Any]) -> tuple[TeacherCache, ...]:
    """A shelf for each teacher of a plan; `common` decides their numbers too, and so does the rounding of a device."""
    device = jax.local_devices()[0]
    who = {
        **common,
        "device": f"{device.platform} {device.device_kind}",
        "jax": jax.__version__,
        "code": source_digest(),
    }
    return tuple(_teacher_cache(phase, folder, who) for phase in plan.teachers)


def common_identity(also: Mapping[str, Any], root: int, precision: str, devices: int) -> dict[str, Any]:
    """What decides the numbers of all teachers of a sweep: the data (`also`), the root key, precision, devices."""
    x64 = bool(jax.config.read("jax_enable_x64"))
    return {**also, "root": root, "precision": precision, "devices": devices, "x64": x64}


def source_digest(*also: str) -> str:
    """A digest of the source that decides a trained net: the packages core, nets and training, and modules besides."""
    folders = [Path(str(package.__file__)).parent for package in (core, nets, training)]
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    files += [Path(str(importlib.import_module(name).__file__)) for name in also]
    return hashlib.blake2s(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _teacher_cache(phase: Phase, folder: str | Path, who: Mapping[str, Any]) -> TeacherCache:
    """The shelf of a phase; one that goes with this process where no later one could know the phase again."""
    try:
        return TeacherCache(folder, {**who, "phase": describe_phase(phase)})
    except ConfigError:
        passing = tempfile.mkdtemp(prefix="sublim_jax_teachers_")
        shelf = TeacherCache(passing, who)
        weakref.finalize(shelf, shutil.rmtree, passing, ignore_errors=True)
        return shelf

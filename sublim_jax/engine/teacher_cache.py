"""Trained teachers on disk, one file per seed, keyed by everything that decides their training."""

import hashlib
import importlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sublim_jax import core, nets, training
from sublim_jax.core import trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import DamagedFile, replace_file, set_aside
from sublim_jax.core.types import Params, Phase
from sublim_jax.engine import compilation_cache
from sublim_jax.engine.params import flat_layers, layers_of, load_arrays, save_arrays
from sublim_jax.engine.plan import Plan, describe_phase


def default_dir() -> Path:
    """The directory in the user's cache where teachers of all sweeps are kept."""
    return compilation_cache.user_cache_dir() / "teachers"


class TeacherCache:
    """The trained teachers of one phase: parameters by seed, as safetensors files.

    Args:
        folder: Directory of all caches.
        identity: Plain values that decide the numbers: phase, data, root key, precision, versions, device.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any]) -> None:
        self._identity = json.dumps(identity, sort_keys=True)
        self._folder = Path(folder) / hashlib.blake2s(self._identity.encode()).hexdigest()[:24]

    def load(self, seeds: Sequence[int]) -> Params | None:
        """The parameters [seed] of these seeds, or None where one of them is missing; a damaged file is set aside."""
        try:
            nets = {seed: layers_of(load_arrays(self._file(seed), self._of(seed), sealed=True)) for seed in set(seeds)}
        except DamagedFile as error:
            set_aside(error)
            return None
        except ConfigError:
            return None
        return jax.tree.map(lambda *leaves: np.stack(leaves), *(nets[seed] for seed in seeds))

    def save(self, seeds: Sequence[int], params: Params) -> bool:
        """Keep the parameters [seed]; False where the directory cannot be written, which costs only time."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not (self._folder / "who.json").exists():
                replace_file(self._folder / "who.json", self._identity.encode())
            params = jax.device_get(params)  # at once: a seed that is taken from sharded arrays is sent to all devices
            for index, seed in enumerate(seeds):
                if self.load((seed,)) is None:
                    save_arrays(flat_layers(trees.index(params, index)), self._file(seed), of=self._of(seed))
        except OSError:
            return False
        return True

    def _of(self, seed: int) -> str:
        return f"{self._identity} {seed}"

    def _file(self, seed: int) -> Path:
        return self._folder / f"seed{seed:05d}.safetensors"


def teacher_caches(plan: Plan, folder: str | Path, common: Mapping[str, Any]) -> tuple[TeacherCache, ...]:
    """A cache for each teacher of a plan; `common` are plain values that decide the numbers of all teachers."""
    return tuple(_teacher_cache(phase, folder, {**common, **machine_identity()}) for phase in plan.teachers)


def machine_identity(*modules: str) -> dict[str, str]:
    """Device, version of JAX, and a digest of the code (see `source_digest`), which decide a trained net."""
    device = jax.local_devices()[0]
    kind = f"{device.platform} {device.device_kind}"
    return {"device": kind, "jax": jax.__version__, "code": source_digest(*modules)}


def source_digest(*modules: str) -> str:
    """A digest of the source that decides a trained net: the packages core, nets and training, and more modules."""
    folders = [Path(str(package.__file__)).parent for package in (core, nets, training)]
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    files += [Path(str(importlib.import_module(name).__file__)) for name in modules]
    return hashlib.blake2s(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _teacher_cache(phase: Phase, folder: str | Path, identity: Mapping[str, Any]) -> TeacherCache:
    """The cache of a phase; a temporary one where another process could not recognise the phase."""
    try:
        return TeacherCache(folder, {**identity, "phase": describe_phase(phase)})
    except ConfigError:
        temporary = tempfile.mkdtemp(prefix="sublim_jax_teachers_")
        cache = TeacherCache(temporary, identity)
        weakref.finalize(cache, shutil.rmtree, temporary, ignore_errors=True)
        return cache

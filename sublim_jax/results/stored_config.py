"""The config that a work directory belongs to, and the records of its runs: read, and compared with another config."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sublim_jax.core import files
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import DamagedFile
from sublim_jax.core.nested import flatten

_SEEDS = ("seeds", "first_seed")  # fields of a config that name seeds; a directory may get more of them


def metadata(workdir: str | Path) -> dict[str, Any]:
    """Return the content of a work directory's `config.json`, with the facts of each run under `runs`, earliest first.

    Raises:
        ConfigError: There is no such file, or one is damaged.
    """
    file = Path(workdir) / "config.json"
    try:
        content = read_config(file)
        sealed = bool(content.pop("checksums", False))
        runs = [
            *content.get("runs", []),
            *(read_run(path, sealed) for path in sorted(Path(workdir).glob("runs/*.json"))),
        ]
    except FileNotFoundError as error:
        raise ConfigError(f"workdir={workdir}: config.json cannot be read ({error.strerror})") from error
    except DamagedFile as error:
        name = error.path.relative_to(workdir)
        raise ConfigError(f"workdir={workdir}: {name} {error.reason}") from error
    return {**content, "runs": sorted(runs, key=lambda run: run["begun"])}


def _read_json(path: Path, required: bool = False) -> dict[str, Any]:
    """A JSON object without its seal; raises `DamagedFile` where there is none."""
    try:
        content = json.loads(files.read_sealed(path, required=required))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(path, f"cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise DamagedFile(path, "cannot be read (is no JSON object)")
    content.pop("seal", None)
    return content


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.json; raises `DamagedFile` where it is none, `FileNotFoundError` where there is none."""
    content = _read_json(path)
    if not isinstance(content.get("config"), dict) or not isinstance(content.get("started", ""), str):
        raise DamagedFile(path, "cannot be read (names no config of this package)")
    return content


def read_run(path: Path, sealed: bool = False) -> dict[str, Any]:
    """Read the record of a run; raises `DamagedFile` where it is none, or must have a checksum and has none."""
    run = _read_json(path, sealed)
    if not isinstance(run.get("begun"), str):
        raise DamagedFile(path, "cannot be read (is no record of a run)")
    return run


def _without_seeds(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in _SEEDS}


def identity_of(config: Mapping[str, Any]) -> str:
    """Return a digest of a config without its seeds."""
    return hashlib.blake2s(json.dumps(_without_seeds(config), sort_keys=True).encode()).hexdigest()[:32]


def seeds_of(config: Mapping[str, Any]) -> set[int]:
    """Return the seeds that a config names; empty where it names none."""
    seeds = config.get("seeds", [])
    if isinstance(seeds, int):
        first = config.get("first_seed", 0)
        return set(range(first, first + seeds))
    return set(seeds)


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the first fields but seeds in which two configs differ, each with both values."""
    left, right = flatten(_without_seeds(before)), flatten(_without_seeds(now))
    names = [name for name in sorted(left.keys() | right.keys()) if left.get(name) != right.get(name)]
    shown = [f"{name}: {left.get(name)!r} there, {right.get(name)!r} here" for name in names[:3]]
    return "; ".join(shown) + (f"; and {len(names) - 3} more" if len(names) > 3 else "")

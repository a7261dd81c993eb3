"""The work folder: tidy rows as Parquet parts, and the config that made them."""

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sublim_jax.errors import Refused

_OURS = ("config.json", "rows", "checkpoints", "teachers", "figure.svg", "figure.png", "report.html")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "pyarrow", "sublim_jax")


class Folder:
    """A work folder that belongs to one config.

    resume  'auto' continues what the same config began, 'never' wants a folder without results, 'overwrite' removes
            earlier results. Raises `Refused` for another word, or where the folder belongs to another config, naming
            the fields that differ.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any], resume: str = "auto") -> None:
        self.path = Path(path)
        if resume not in ("auto", "never", "overwrite"):
            raise Refused(f"resume={resume!r}: must be one of auto, never, overwrite")
        if resume == "overwrite":
            self._remove()
        config = json.loads(json.dumps(config))  # as it will be read back: tuples are lists
        before = self._before()
        if before is not None and resume == "never":
            raise Refused(f"workdir={self.path}: holds results; choose another, or --resume=auto or --resume=overwrite")
        if before is not None and before["config"] != config:
            raise Refused(
                f"workdir={self.path}: belongs to another config ({_difference(before['config'], config)}); "
                "choose another workdir, or --resume=overwrite to delete its results"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "rows").mkdir(exist_ok=True)
        self._facts: dict[str, Any] = before or {"config": config, "started": _now(), "runs": []}
        if before is None:
            self._write_facts()

    def has(self, part: str) -> bool:
        """Whether the part of that name has been written."""
        return self._file(part).exists()

    def write(self, part: str, table: pa.Table) -> None:
        """Write one part under a temporary name, then rename it: a part is whole or absent."""
        temporary = self.path / "rows" / f".{part}.{os.getpid()}.tmp"
        pq.write_table(table, temporary)
        os.replace(temporary, self._file(part))

    def finish(self, **facts: Any) -> None:
        """Add facts of this run (times, device, data) to `config.json`."""
        self._facts["runs"].append({"finished": _now(), **facts})
        self._write_facts()

    def _file(self, part: str) -> Path:
        return self.path / "rows" / f"{part}.parquet"

    def _before(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.path / "config.json").read_text())
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            raise Refused(
                f"workdir={self.path}: config.json cannot be read ({error}); "
                "choose another workdir, or --resume=overwrite"
            ) from error

    def _write_facts(self) -> None:
        temporary = self.path / f".config.json.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(self._facts, indent=1) + "\n")
        os.replace(temporary, self.path / "config.json")

    def _remove(self) -> None:
        for name in _OURS:
            target = self.path / name
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)


def tidy(
    labels: Sequence[Mapping[str, Any]], seeds: Sequence[int], step: int, measured: Mapping[str, np.ndarray]
) -> pa.Table:
    """One row per condition and seed: labels bare, then seed, step, and what was measured under `at/`.

    `measured` has arrays [seed, condition]; seeds beyond `seeds` are padding and dropped. Raises ValueError where a
    label takes the name of a column of ours.
    """
    conditions, number = len(labels), len(seeds)
    columns: dict[str, Any] = {name: [label[name] for label in labels for _ in seeds] for name in labels[0]}
    if taken := {"seed", "step"} & columns.keys():
        raise ValueError(f"labels may not be called {sorted(taken)}")
    columns["seed"] = np.tile(np.asarray(seeds, np.int64), conditions)
    columns["step"] = np.full(conditions * number, step, np.int64)
    for name, values in measured.items():
        columns[f"at/{name}"] = np.asarray(values)[:number].T.ravel()
    return pa.table(columns)


def load(workdir: str | Path) -> pd.DataFrame:
    """All rows of a work folder, whatever was sharded, as a pandas data frame.

    One row per condition, seed and mark. Raises `Refused` where there are no rows, or where a part is damaged.
    """
    parts = sorted((Path(workdir) / "rows").glob("*.parquet"))
    if not parts:
        raise Refused(f"workdir={workdir}: holds no rows (no rows/*.parquet)")
    frames = []
    for part in parts:
        try:
            frames.append(pq.read_table(part).to_pandas())
        except (pa.ArrowInvalid, OSError) as error:
            raise Refused(
                f"workdir={workdir}: {part.name} cannot be read ({error}); delete it and run again"
            ) from error
    return pd.concat(frames, ignore_index=True)


def facts(workdir: str | Path) -> dict[str, Any]:
    """What `config.json` of a work folder says; raises `Refused` where there is none."""
    try:
        return json.loads((Path(workdir) / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise Refused(f"workdir={workdir}: config.json cannot be read ({error})") from error


def provenance() -> dict[str, Any]:
    """Versions of what computes, the commit of this code, and the machine, as plain values."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"versions": versions, "commit": _commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}


def _commit() -> str:
    """The commit of the checkout this file lies in, '+dirty' where tracked files differ; 'unknown' elsewhere."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(("git", *words), cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != here.parent:
            return "unknown"
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _difference(before: Any, now: Any) -> str:
    """The first fields in which two configs differ, each as `name: there -> here`."""
    left, right = _flat(before), _flat(now)
    names = [name for name in sorted(left.keys() | right.keys()) if left.get(name) != right.get(name)]
    shown = [f"{name}: {left.get(name)!r} there, {right.get(name)!r} here" for name in names[:3]]
    return "; ".join(shown) + (f"; and {len(names) - 3} more" if len(names) > 3 else "")


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {prefix: config}
    items = [_flat(value, f"{prefix}.{name}" if prefix else name) for name, value in config.items()]
    return {name: value for item in items for name, value in item.items()}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

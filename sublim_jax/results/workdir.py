"""The work directory: tidy rows as Parquet files, and the config that produced them."""

import datetime
import io
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import replace_file
from sublim_jax.core.nested import flatten

# Removed in this order: config.json last, so that a half removed directory still identifies its config.
_WRITTEN = (
    *("rows", "runs", "checkpoints", "teachers", "params", "figure.svg", "figure.png", "report.html"),
    *("audit.csv", "audit.json", "config.json"),
)


class Workdir:
    """A work directory of one config, into which several jobs may write at once; each file is whole or absent.

    Args:
        path: The directory; it is made where it is missing.
        config: The config, as plain values.
        resume: 'auto' continues what the same config began, 'never' refuses earlier results, 'overwrite' removes them.

    Raises:
        ConfigError: The directory cannot be used, or belongs to another config; the message has the differing fields.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any], resume: str = "auto") -> None:
        self.path = Path(path)
        if "://" in str(path):
            raise ConfigError(f"workdir={path}: must be a folder that this machine sees, not an address")
        if resume not in ("auto", "never", "overwrite"):
            raise ConfigError(f"resume={resume!r}: must be one of auto, never, overwrite")
        if resume == "overwrite":
            self._change(self._remove)
        self._config = json.loads(json.dumps(config))  # as it will be read back: tuples are lists
        earlier = self._earlier_config()
        if earlier is not None and resume == "never":
            raise self._error("holds results; choose another, or --resume=auto or --resume=overwrite")
        if earlier is not None and earlier != self._config:
            hint = "choose another workdir, or --resume=overwrite to delete its results"
            raise self._error(f"belongs to another config ({_difference(earlier, self._config)}); {hint}")
        if earlier is None and any((self.path / "rows").glob("*.parquet")):
            raise self._error("holds rows but no config.json; choose another, or --resume=overwrite")
        self._change(lambda: (self.path / "rows").mkdir(parents=True, exist_ok=True))
        self._run: dict[str, Any] = {}
        self._run_file = ""

    def has(self, part: str) -> bool:
        """Whether the part has been written."""
        return self._file(part).exists()

    def write(self, part: str, table: pa.Table) -> None:
        """Write one part atomically: readers see the complete file or none."""
        sink = io.BytesIO()
        pq.write_table(table, sink)
        replace_file(self._file(part), sink.getvalue())

    def begin(self, **facts: Any) -> None:
        """Record the start of a run, with facts about it (command, device, data, versions), in a file of its own.

        Raises:
            ConfigError: Another job has just made this the directory of another config.
        """
        if self._earlier_config() is None:
            self._write("config.json", {"config": self._config, "started": _now()})
        if self._earlier_config() not in (None, self._config):
            raise self._error("another job has just begun with another config here; choose another")
        (self.path / "runs").mkdir(exist_ok=True)
        self._run = {"begun": _now(), "status": "running", **facts}
        self._run_file = f"runs/{time.time_ns()}-{platform.node()}-{os.getpid()}.json"
        self._write(self._run_file, self._run)

    def finish(self, **facts: Any) -> None:
        """Add facts about the end of the run that `begin` recorded."""
        self._run |= {"finished": _now(), **facts}
        self._write(self._run_file, self._run)

    def _write(self, name: str, facts: Mapping[str, Any]) -> None:
        replace_file(self.path / name, (json.dumps(facts, indent=1) + "\n").encode())

    def _file(self, part: str) -> Path:
        return self.path / "rows" / f"{part}.parquet"

    def _error(self, text: str) -> ConfigError:
        return ConfigError(f"workdir={self.path}: {text}")

    def _earlier_config(self) -> Any:
        """The config to which the directory belongs; None for a new one."""
        try:
            return json.loads((self.path / "config.json").read_text())["config"]
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            text = f"config.json cannot be read ({error}); choose another workdir, or --resume=overwrite"
            raise self._error(text) from error

    def _change(self, change: Callable[[], object]) -> None:
        try:
            change()
        except OSError as error:
            raise self._error(f"cannot be used ({error.strerror or error})") from error

    def _remove(self) -> None:
        for name in _WRITTEN:
            target = self.path / name
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)


def part_name(group: str, seeds: str, step: int) -> str:
    """The name of the part with the rows of a group and a range of seeds at one evaluation."""
    return f"{group}-{seeds}-step{step:07d}"


def tidy(
    labels: Sequence[Mapping[str, Any]], seeds: Sequence[int], step: int, measured: Mapping[str, np.ndarray]
) -> pa.Table:
    """One row per condition and seed: labels, seed, step, and measurements with the prefix `at/` or `theory/`.

    Args:
        labels: The labels of each condition.
        seeds: The seeds.
        step: The step of the evaluation.
        measured: Measurements [seed, condition] by name; seeds beyond `seeds` are padding and dropped.

    Raises:
        ValueError: A label is called `seed` or `step`.
    """
    if taken := {"seed", "step"} & labels[0].keys():
        raise ValueError(f"labels may not be called {sorted(taken)}")
    columns: dict[str, Any] = {name: [label[name] for label in labels for _ in seeds] for name in labels[0]}
    columns["seed"] = np.tile(np.asarray(seeds, np.int64), len(labels))
    columns["step"] = np.full(len(labels) * len(seeds), step, np.int64)
    for name, values in measured.items():
        column = name if name.startswith("theory/") else f"at/{name}"
        columns[column] = np.asarray(values)[: len(seeds)].T.ravel()
    return pa.table(columns)


def load(workdir: str | Path, empty: bool = False) -> pd.DataFrame:
    """All rows of a work directory: one per condition, seed and evaluation.

    Args:
        workdir: The work directory.
        empty: Whether a directory without rows gives an empty data frame rather than an error.

    Raises:
        ConfigError: There are no rows, or a file is damaged.
    """
    parts = sorted((Path(workdir) / "rows").glob("*.parquet"))
    if not parts and empty:
        return pd.DataFrame()
    if not parts:
        raise ConfigError(f"workdir={workdir}: holds no rows (no rows/*.parquet)")
    rows = pd.concat([_read(part).to_pandas() for part in parts], ignore_index=True)
    # Seeds that a resumed run divided otherwise may have an evaluation in two parts, with the same numbers.
    return rows.drop_duplicates([name for name in rows if "/" not in name], keep="last", ignore_index=True)


def read(folder: str | Path) -> pd.DataFrame:
    """The rows of a work directory, or of a kept experiment, which is a folder with `rows.parquet`.

    Raises:
        ConfigError: There are no rows, or a file is damaged.
    """
    kept = Path(folder) / "rows.parquet"
    if (Path(folder) / "rows").is_dir() or not kept.is_file():
        return load(folder)
    try:
        return pd.read_parquet(kept)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{kept}: cannot be read ({str(error).splitlines()[0]})") from error


def completed(workdir: str | Path) -> dict[tuple[frozenset, int], set[int]]:
    """The seeds whose rows are in a work directory, for each condition (its labels) and evaluation step."""
    seeds: dict[tuple[frozenset, int], set[int]] = {}
    for part in (Path(workdir) / "rows").glob("*.parquet"):
        names = [name for name in _read(part, pq.read_schema).names if "/" not in name]
        for row in _read(part, columns=names).to_pylist():
            seed, step = row.pop("seed"), row.pop("step")
            seeds.setdefault((frozenset(row.items()), step), set()).add(seed)
    return seeds


def _read(part: Path, read: Callable[..., Any] = pq.read_table, **options: Any) -> Any:
    try:
        return read(part, **options)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{part}: cannot be read ({reason}); delete it and run again") from error


def metadata(workdir: str | Path) -> dict[str, Any]:
    """The content of a work directory's `config.json`, with the facts of each run under `runs`, earliest first.

    Raises:
        ConfigError: There is no such file, or one is damaged.
    """
    file = Path(workdir) / "config.json"
    try:
        content = json.loads(file.read_text())
        runs = content.get("runs", [])
        for file in sorted((Path(workdir) / "runs").glob("*.json")):
            runs.append(json.loads(file.read_text()))
        return {**content, "runs": sorted(runs, key=lambda run: run["begun"])}
    except (OSError, ValueError) as error:
        raise ConfigError(f"workdir={workdir}: {file.relative_to(workdir)} cannot be read ({error})") from error


def _difference(before: Any, now: Any) -> str:
    """The first fields in which two configs differ, each with both values."""
    left, right = flatten(before), flatten(now)
    names = [name for name in sorted(left.keys() | right.keys()) if left.get(name) != right.get(name)]
    shown = [f"{name}: {left.get(name)!r} there, {right.get(name)!r} here" for name in names[:3]]
    return "; ".join(shown) + (f"; and {len(names) - 3} more" if len(names) > 3 else "")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

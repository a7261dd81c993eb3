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

# config.json is removed last, so that a half removed folder still identifies its config.
_OURS = ("rows", "runs", "checkpoints", "teachers", "params", "figure.svg", "figure.png", "report.html")
_OURS += ("audit.csv", "audit.json", "config.json")


class Workdir:
    """A work folder that belongs to one config, into which several jobs may write at the same time.

    Every file but `config.json` is written by one job only, and each is whole or absent.

    resume  'auto' continues what the same config began, 'never' wants a folder without results, 'overwrite' removes
            earlier results. Raises `ConfigError` for another word, for a folder that cannot be used, and where it
            belongs to another config, naming the fields that differ.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any], resume: str = "auto") -> None:
        self.path = Path(path)
        if "://" in str(path):
            raise ConfigError(f"workdir={path}: must be a folder that this machine sees, not an address")
        if resume not in ("auto", "never", "overwrite"):
            raise ConfigError(f"resume={resume!r}: must be one of auto, never, overwrite")
        if resume == "overwrite":
            self._touch(self._remove)
        config = json.loads(json.dumps(config))  # as it will be read back: tuples are lists
        before = self._before()
        if before is not None and resume == "never":
            raise ConfigError(
                f"workdir={self.path}: holds results; choose another, or --resume=auto or --resume=overwrite"
            )
        if before is not None and before["config"] != config:
            raise ConfigError(
                f"workdir={self.path}: belongs to another config ({_difference(before['config'], config)}); "
                "choose another workdir, or --resume=overwrite to delete its results"
            )
        if before is None and any((self.path / "rows").glob("*.parquet")):
            raise ConfigError(
                f"workdir={self.path}: holds rows but no config.json; choose another, or --resume=overwrite"
            )
        self._touch(lambda: (self.path / "rows").mkdir(parents=True, exist_ok=True))
        self._config = config
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

        Raises `ConfigError` where another job has just made this the folder of another config.
        """
        if self._before() is None:
            self._write("config.json", {"config": self._config, "started": _now()})
        if (now := self._before()) is not None and now["config"] != self._config:
            raise ConfigError(
                f"workdir={self.path}: another job has just begun with another config here; choose another"
            )
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

    def _before(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.path / "config.json").read_text())
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            raise ConfigError(
                f"workdir={self.path}: config.json cannot be read ({error}); "
                "choose another workdir, or --resume=overwrite"
            ) from error

    def _touch(self, change: Callable[[], object]) -> None:
        try:
            change()
        except OSError as error:
            raise ConfigError(f"workdir={self.path}: cannot be used ({error.strerror or error})") from error

    def _remove(self) -> None:
        for name in _OURS:
            target = self.path / name
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)


def part_name(group: str, seeds: str, mark: int) -> str:
    """The name of the part with the rows of a group and a range of seeds at one evaluation."""
    return f"{group}-{seeds}-step{mark:07d}"


def tidy(
    labels: Sequence[Mapping[str, Any]], seeds: Sequence[int], step: int, measured: Mapping[str, np.ndarray]
) -> pa.Table:
    """One row per condition and seed: the labels, seed, step, and each measurement with the prefix `at/`.

    Predictions, whose names begin with `theory/`, keep that prefix.

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
        columns[name if name.startswith("theory/") else f"at/{name}"] = np.asarray(values)[:number].T.ravel()
    return pa.table(columns)


def load(workdir: str | Path, empty: bool = False) -> pd.DataFrame:
    """All rows of a work directory, from all shards, as a pandas data frame.

    Args:
        workdir: The work directory.
        empty: Whether a directory without rows gives an empty data frame rather than an error.

    Returns:
        One row per condition, seed and evaluation.

    Raises:
        ConfigError: There are no rows, or a file is damaged.
    """
    parts = sorted((Path(workdir) / "rows").glob("*.parquet"))
    if not parts and empty:
        return pd.DataFrame()
    if not parts:
        raise ConfigError(f"workdir={workdir}: holds no rows (no rows/*.parquet)")
    rows = pd.concat([_read(part).to_pandas() for part in parts], ignore_index=True)
    # Seeds cut into other slices on resume may have an early mark in two parts, with the same numbers.
    keys = [name for name in rows.columns if "/" not in name]
    return rows.drop_duplicates(keys, keep="last", ignore_index=True)


def completed(workdir: str | Path) -> dict[tuple[frozenset, int], set[int]]:
    """The seeds whose rows are in a work directory, for each condition (its labels) and evaluation step."""
    found: dict[tuple[frozenset, int], set[int]] = {}
    for part in (Path(workdir) / "rows").glob("*.parquet"):
        names = [name for name in _read(part, pq.read_schema).names if "/" not in name]
        for row in _read(part, columns=names).to_pylist():
            seed, step = row.pop("seed"), row.pop("step")
            found.setdefault((frozenset(row.items()), step), set()).add(seed)
    return found


def _read(part: Path, read: Callable[..., Any] = pq.read_table, **options: Any) -> Any:
    try:
        return read(part, **options)
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{part}: cannot be read ({_first_line(error)}); delete it and run again") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def metadata(workdir: str | Path) -> dict[str, Any]:
    """The content of a work directory's `config.json`, with the facts of each run under `runs`, earliest first.

    Raises `ConfigError` where there is no such file, or one is damaged.
    """
    name = "config.json"
    try:
        told = json.loads((Path(workdir) / name).read_text())
        runs = list(told.get("runs", []))
        for file in sorted((Path(workdir) / "runs").glob("*.json")):
            name = f"runs/{file.name}"
            runs.append(json.loads(file.read_text()))
        return {**told, "runs": sorted(runs, key=lambda run: run["begun"])}
    except (OSError, ValueError) as error:
        raise ConfigError(f"workdir={workdir}: {name} cannot be read ({error})") from error


def _difference(before: Any, now: Any) -> str:
    """The first fields in which two configs differ, each as `name: there -> here`."""
    left, right = flatten(before), flatten(now)
    names = [name for name in sorted(left.keys() | right.keys()) if left.get(name) != right.get(name)]
    shown = [f"{name}: {left.get(name)!r} there, {right.get(name)!r} here" for name in names[:3]]
    return "; ".join(shown) + (f"; and {len(names) - 3} more" if len(names) > 3 else "")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

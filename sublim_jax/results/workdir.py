"""The work directory: tidy rows as Parquet files, and the config that produced them."""

import contextlib
import datetime
import hashlib
import io
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sublim_jax.core import files
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import DamagedFile
from sublim_jax.core.nested import flatten
from sublim_jax.results.locks import Lock

# Moved in this order: config.json last, so that a half emptied directory still identifies its config.
_WRITTEN = (
    *("rows", "runs", "checkpoints", "teachers", "students", "preferences", "params"),
    *("figure.svg", "figure.png", "report.html"),
    *("audit.csv", "audit.json", "tensorboard", "wandb", "config.json"),
)
_SEEDS = ("seeds", "first_seed")  # fields of a config that name seeds; a directory may get more of them
_INDEX = ("seed", "step")
_ASIDE = re.compile(r"replaced-\d{8}-\d{6}(-\d+)?")


class Workdir:
    """A work directory of one config, into which several jobs may write at once; each file is whole or absent.

    Nothing is written, moved or removed before `begin`.

    Args:
        path: The directory; it is made where it is missing.
        config: The config, as plain values.
        resume: 'auto' continues what the same config began, also with more seeds, 'never' refuses earlier results,
            'overwrite' replaces them: they are moved into the folder replaced-TIME, which is removed when the new run
            has written its first rows.
        shard: (i, n): the part of the work that this job does.

    Raises:
        ConfigError: The directory cannot be used, or belongs to another config; the message has the differing fields.
    """

    def __init__(
        self, path: str | Path, config: Mapping[str, Any], resume: str = "auto", shard: tuple[int, int] = (0, 1)
    ) -> None:
        self.path, self._shard = Path(path), shard
        self.on_write: Callable[[pa.Table], object] = lambda table: None  # called with the rows of every part
        refuse_address(path)
        if resume not in ("auto", "never", "overwrite"):
            raise ConfigError(f"resume={resume!r}: must be one of auto, never, overwrite")
        self._config = json.loads(json.dumps(config))  # as it will be read back: tuples are lists
        self.identity = _identity(self._config)
        self._replaced: list[Path] = []  # what `begin` moves aside
        self._aside: list[Path] = []  # folders to remove when rows have been written
        self._damaged: list[DamagedFile] = []  # what `begin` sets aside
        self._rows: dict[str, pa.Table] = {}  # labels, seeds and steps of each part
        self._run: dict[str, Any] = {}
        self._run_file = ""
        self._lock: Lock | None = None
        try:
            self._examine(resume)
        except OSError as error:
            raise self._error(f"cannot be used ({error.strerror or error})") from error

    def has(self, part: str) -> bool:
        """Whether the part has been written."""
        return part in self._rows

    def completed(self) -> dict[tuple[frozenset, int], set[int]]:
        """The seeds whose rows are there, for each condition (its labels) and evaluation step."""
        return _completed(self._rows.values())

    def seeds(self) -> dict[str, set[int]]:
        """The seeds whose rows are there, for the first word of the names of parts."""
        return _seeds(self._rows)

    def write(self, part: str, table: pa.Table) -> None:
        """Write one part atomically: readers see the complete file or none."""
        sink = io.BytesIO()
        with pq.ParquetWriter(sink, table.schema, write_page_checksum=True) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({"seal": files.seal(f"{self.identity}/{part}")})
        file = self.path / "rows" / f"{part}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_sealed(file, sink.getvalue())
        self._rows[part] = _labels(table)
        while self._aside:
            shutil.rmtree(self._aside.pop(), ignore_errors=True)
        self.on_write(table)

    def begin(self, **facts: Any) -> None:
        """Record the start of a run, with facts about it (command, device, data, versions), in a file of its own.

        Raises:
            ConfigError: Another job does the same part of the work at this moment, or has just made this the directory
                of another config.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.path, self._shard)
            self._set_aside()
            self._claim()
            (self.path / "rows").mkdir(exist_ok=True)
            (self.path / "runs").mkdir(exist_ok=True)
            files.sync_folder(self.path)
        except OSError as error:
            raise self._error(f"cannot be used ({error.strerror or error})") from error
        self._run = {"begun": _now(), "status": "running", **facts}
        self._run_file = f"runs/{time.time_ns()}-{platform.node()}-{os.getpid()}.json"
        self._write(self._run_file, self._run)

    def finish(self, **facts: Any) -> None:
        """Add facts about the end of the run that `begin` recorded."""
        self._run |= {"finished": _now(), **facts}
        self._write(self._run_file, self._run)

    def close(self) -> None:
        """Let other jobs do this part of the work."""
        if self._lock is not None:
            self._lock.release()

    def _examine(self, resume: str) -> None:
        """Refuse a directory that cannot be used, and find what is there."""
        if self.path.exists() and not self.path.is_dir():
            raise self._error("is no folder")
        if resume == "overwrite":
            written = [self.path / name for name in _WRITTEN if os.path.lexists(self.path / name)]
            self._replaced = [path for path in written if not path.is_dir() or any(path.iterdir())]
            if self._replaced and not self._is_ours():
                names = ", ".join(path.name for path in self._replaced)
                raise self._error(f"holds {names} of something else, which are not replaced; {self._choose()}")
            return
        content = self._content()
        if content and resume == "never":
            raise self._error("holds results; choose another, or --resume=auto or --resume=overwrite")
        if content:
            self._compare(content["config"])
        sealed = bool(content.get("checksums", not content))
        for path in _parts(self.path):
            with self._noting_damage():
                self._rows[path.stem] = _labels(_read(path, self.identity, sealed))
        for path in sorted(self.path.glob("runs/*.json")):
            with self._noting_damage():
                _read_run(path, sealed)
        foreign = {error.path.parent.name for error in self._damaged} & {"rows", "runs"}
        if foreign and not content:
            raise self._error(f"holds {' and '.join(sorted(foreign))} but no config.json; {self._choose()}")

    @contextlib.contextmanager
    def _noting_damage(self) -> Iterator[None]:
        try:
            yield
        except DamagedFile as error:
            self._damaged.append(error)

    def _content(self) -> dict[str, Any]:
        """The content of config.json; empty where there is none, or a damaged one, which is noted."""
        try:
            return _read_config(self.path / "config.json")
        except FileNotFoundError:
            return {}
        except DamagedFile as error:
            if not self._is_ours():
                raise self._error(f"config.json {error.reason}; {self._choose()}") from error
            self._damaged.append(error)
            return {}

    def _compare(self, earlier: Mapping[str, Any]) -> None:
        """Refuse a directory of another config, and one of more seeds."""
        if _identity(earlier) != self.identity:
            difference = _difference(_without_seeds(earlier), _without_seeds(self._config))
            raise self._error(f"belongs to another config ({difference}); {self._choose()}")
        kept, asked = _seeds_of(earlier), _seeds_of(self._config)
        if not kept <= asked:
            ends = [f"{min(seeds)} to {max(seeds)}" for seeds in (kept, asked)]
            hint = f"ask for all of them, or choose another, for instance --workdir={files.free_name(self.path)}"
            raise self._error(f"holds seeds {ends[0]}, more than the seeds {ends[1]} of this run; {hint}")

    def _is_ours(self) -> bool:
        """Whether this package wrote the directory: its config.json says so, or a file with a seal."""
        with contextlib.suppress(FileNotFoundError, DamagedFile):
            return bool(_read_config(self.path / "config.json"))
        written = [*_parts(self.path), *(self.path / "runs").glob("*.json"), self.path / "config.json"]
        return any(files.has_seal(path) for path in written)

    def _set_aside(self) -> None:
        """Move what is replaced, and what is damaged, out of the way, and say where it is."""
        self._aside = [path for path in self.path.glob("replaced-*") if _ASIDE.fullmatch(path.name)]
        if self._rows:  # of the run that replaced them
            while self._aside:
                shutil.rmtree(self._aside.pop(), ignore_errors=True)
        if self._replaced:
            folder = files.free_name(self.path / f"replaced-{datetime.datetime.now():%Y%m%d-%H%M%S}")
            folder.mkdir()
            for path in self._replaced:
                with contextlib.suppress(FileNotFoundError):
                    os.replace(path, folder / path.name)
            files.sync_folder(folder)
            files.sync_folder(self.path)
            self._aside.append(folder)
        for folder in self._aside:
            line = f"{folder}: holds replaced results, which are removed when the new run has its first rows"
            print(line, file=sys.stderr, flush=True)
        for error in self._damaged:
            files.set_aside(error)
        if self._shard == (0, 1):  # no other job writes
            files.remove_temporaries(self.path)

    def _claim(self) -> None:
        """Write config.json where it is missing or names fewer seeds."""
        content = self._content()
        if content and _identity(content["config"]) != self.identity:
            raise self._error("another job has just begun with another config here; choose another")
        if not content or not _seeds_of(self._config) <= _seeds_of(content["config"]):
            new = {"started": _now(), "checksums": True}
            self._write("config.json", {**(content or new), "config": self._config})

    def _write(self, name: str, facts: Mapping[str, Any]) -> None:
        text = json.dumps({**facts, "seal": files.seal()}, indent=1)
        files.write_sealed(self.path / name, f"{text}\n".encode())

    def _error(self, text: str) -> ConfigError:
        return ConfigError(f"workdir={self.path}: {text}")

    def _choose(self) -> str:
        overwrite = ", or --resume=overwrite to replace its results" if self._is_ours() else ""
        return f"choose another, for instance --workdir={files.free_name(self.path)}{overwrite}"


def refuse_address(workdir: str | Path) -> None:
    """Raise `ConfigError` where a work directory is an address such as gs://bucket; `Path` makes gs:/bucket of it."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(workdir)):
        raise ConfigError(f"workdir={workdir}: must be a folder that this machine sees, not an address")


def choose_folder(workdir: str, default: str) -> Path:
    """The work directory that a command names: the default where it names none, a free folder for 'auto'."""
    refuse_address(workdir)
    return files.free_name(Path(default)) if workdir == "auto" else Path(workdir or default)


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
    parts, options = _parts(workdir), _expected(workdir)
    if not parts and empty:
        return pd.DataFrame()
    if not parts:
        raise ConfigError(f"workdir={workdir}: holds no rows (no rows/*.parquet)")
    rows = pd.concat([_read(part, *options).to_pandas() for part in parts], ignore_index=True)
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
    options = _expected(workdir)
    return _completed(_labels(_read(part, *options)) for part in _parts(workdir))


def completed_seeds(workdir: str | Path) -> dict[str, set[int]]:
    """The seeds whose rows are in a work directory, for the first word of the names of parts."""
    options = _expected(workdir)
    return _seeds({part.stem: _labels(_read(part, *options)) for part in _parts(workdir)})


def _completed(tables: Iterable[pa.Table]) -> dict[tuple[frozenset, int], set[int]]:
    seeds: dict[tuple[frozenset, int], set[int]] = {}
    for table in tables:
        for row in table.to_pylist():
            seed, step = row.pop("seed"), row.pop("step")
            seeds.setdefault((frozenset(row.items()), step), set()).add(seed)
    return seeds


def _seeds(rows: Mapping[str, pa.Table]) -> dict[str, set[int]]:
    seeds: dict[str, set[int]] = {}
    for name, table in rows.items():
        seeds.setdefault(name.partition("-")[0], set()).update(table["seed"].to_pylist())
    return seeds


def _parts(workdir: str | Path) -> list[Path]:
    return sorted((Path(workdir) / "rows").glob("*.parquet"))


def _labels(table: pa.Table) -> pa.Table:
    """The columns that are not measured: labels, seed and step."""
    return table.select([name for name in table.column_names if "/" not in name])


def _expected(workdir: str | Path) -> tuple[str | None, bool]:
    """The identity of the config to which rows must belong, and whether each must have a checksum."""
    try:
        content = _read_config(Path(workdir) / "config.json")
    except (FileNotFoundError, DamagedFile):
        return None, False
    return _identity(content["config"]), bool(content.get("checksums"))


def _read(part: Path, identity: str | None, sealed: bool) -> pa.Table:
    """One part of rows; raises `DamagedFile` where it is damaged, or no part of this directory."""
    of = None if identity is None else f"{identity}/{part.stem}"
    content = files.read_sealed(part, of, required=sealed)
    try:
        table = pq.read_table(io.BytesIO(content), page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedFile(part, f"cannot be read ({str(error).strip().splitlines()[0]})") from error
    if not all(name in table.column_names and pa.types.is_integer(table.schema.field(name).type) for name in _INDEX):
        raise DamagedFile(part, "cannot be read as rows (no integer columns seed and step)")
    return table


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


def _read_config(path: Path) -> dict[str, Any]:
    content = _read_json(path)
    if not isinstance(content.get("config"), dict) or not isinstance(content.get("started", ""), str):
        raise DamagedFile(path, "cannot be read (names no config of this package)")
    return content


def _read_run(path: Path, sealed: bool = False) -> dict[str, Any]:
    run = _read_json(path, sealed)
    if not isinstance(run.get("begun"), str):
        raise DamagedFile(path, "cannot be read (is no record of a run)")
    return run


def metadata(workdir: str | Path) -> dict[str, Any]:
    """The content of a work directory's `config.json`, with the facts of each run under `runs`, earliest first.

    Raises:
        ConfigError: There is no such file, or one is damaged.
    """
    file = Path(workdir) / "config.json"
    try:
        content = _read_config(file)
        sealed = bool(content.pop("checksums", False))
        runs = [
            *content.get("runs", []),
            *(_read_run(path, sealed) for path in sorted(Path(workdir).glob("runs/*.json"))),
        ]
    except FileNotFoundError as error:
        raise ConfigError(f"workdir={workdir}: config.json cannot be read ({error.strerror})") from error
    except DamagedFile as error:
        name = error.path.relative_to(workdir)
        raise ConfigError(f"workdir={workdir}: {name} {error.reason}") from error
    return {**content, "runs": sorted(runs, key=lambda run: run["begun"])}


def _without_seeds(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in _SEEDS}


def _identity(config: Mapping[str, Any]) -> str:
    """A digest of a config without its seeds."""
    return hashlib.blake2s(json.dumps(_without_seeds(config), sort_keys=True).encode()).hexdigest()[:32]


def _seeds_of(config: Mapping[str, Any]) -> set[int]:
    """The seeds that a config names; empty where it names none."""
    seeds = config.get("seeds", [])
    if isinstance(seeds, int):
        first = config.get("first_seed", 0)
        return set(range(first, first + seeds))
    return set(seeds)


def _difference(before: Any, now: Any) -> str:
    """The first fields in which two configs differ, each with both values."""
    left, right = flatten(before), flatten(now)
    names = [name for name in sorted(left.keys() | right.keys()) if left.get(name) != right.get(name)]
    shown = [f"{name}: {left.get(name)!r} there, {right.get(name)!r} here" for name in names[:3]]
    return "; ".join(shown) + (f"; and {len(names) - 3} more" if len(names) > 3 else "")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

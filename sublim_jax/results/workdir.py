"""The work directory of one config: what may be written there, by which jobs, and what is moved aside."""

import contextlib
import datetime
import io
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sublim_jax.core import files
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import DamagedFile
from sublim_jax.results import rows, stored_config
from sublim_jax.results.locks import Lock

# Moved in this order: config.json last, so that a half emptied directory still identifies its config.
_WRITTEN = (
    *("rows", "runs", "checkpoints", "teachers", "students", "preferences", "params"),
    *("figure.svg", "figure.png", "report.html"),
    *("audit.csv", "audit.json", "tensorboard", "wandb", "config.json"),
)
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
        self.identity = stored_config.identity_of(self._config)
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
        return rows.seeds_by_condition(self._rows.values())

    def seeds(self) -> dict[str, set[int]]:
        """The seeds whose rows are there, for the first word of the names of parts."""
        return rows.seeds_by_group(self._rows)

    def write(self, part: str, table: pa.Table) -> None:
        """Write one part atomically: readers see the complete file or none."""
        sink = io.BytesIO()
        with pq.ParquetWriter(sink, table.schema, write_page_checksum=True) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({"seal": files.seal(f"{self.identity}/{part}")})
        file = self.path / "rows" / f"{part}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_sealed(file, sink.getvalue())
        self._rows[part] = rows.labels_of(table)
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
        for path in rows.part_files(self.path):
            with self._noting_damage():
                self._rows[path.stem] = rows.labels_of(rows.read_part(path, self.identity, sealed))
        for path in sorted(self.path.glob("runs/*.json")):
            with self._noting_damage():
                stored_config.read_run(path, sealed)
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
            return stored_config.read_config(self.path / "config.json")
        except FileNotFoundError:
            return {}
        except DamagedFile as error:
            if not self._is_ours():
                raise self._error(f"config.json {error.reason}; {self._choose()}") from error
            self._damaged.append(error)
            return {}

    def _compare(self, earlier: Mapping[str, Any]) -> None:
        """Refuse a directory of another config, and one of more seeds."""
        if stored_config.identity_of(earlier) != self.identity:
            difference = stored_config.difference(earlier, self._config)
            raise self._error(f"belongs to another config ({difference}); {self._choose()}")
        kept, asked = stored_config.seeds_of(earlier), stored_config.seeds_of(self._config)
        if not kept <= asked:
            ends = [f"{min(seeds)} to {max(seeds)}" for seeds in (kept, asked)]
            hint = f"ask for all of them, or choose another, for instance --workdir={files.free_name(self.path)}"
            raise self._error(f"holds seeds {ends[0]}, more than the seeds {ends[1]} of this run; {hint}")

    def _is_ours(self) -> bool:
        """Whether this package wrote the directory: its config.json says so, or a file with a seal."""
        with contextlib.suppress(FileNotFoundError, DamagedFile):
            return bool(stored_config.read_config(self.path / "config.json"))
        written = [*rows.part_files(self.path), *(self.path / "runs").glob("*.json"), self.path / "config.json"]
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
        if content and stored_config.identity_of(content["config"]) != self.identity:
            raise self._error("another job has just begun with another config here; choose another")
        if not content or not stored_config.seeds_of(self._config) <= stored_config.seeds_of(content["config"]):
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


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

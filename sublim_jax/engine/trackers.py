"""Experiment trackers: TensorBoard, Weights & Biases and trackio. One run for a sweep, with a curve for each condition.

The packages are optional and imported only if a tracker is chosen. A tracker that fails prints one line and gets no
more data; it never ends a run.
"""

import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa

from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.results import flatten, summary

PROJECT = "sublim_jax"
STEP = "student_step"
# Curves: a name, the column, and the column that is subtracted.
_CURVES = (
    ("accuracy", "at/student_accuracy", ""),
    ("transfer", "at/student_accuracy", "at/untrained_accuracy"),
    ("transfer", "at/transfer", ""),
    ("probability", "at/probability", ""),
    ("cosine", "at/cosine", ""),
    ("positive", "at/positive", ""),
)


class Tracker(Protocol):
    """One run of a tracker."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log values at a step of the students."""

    def finish(self, table: pd.DataFrame) -> None:
        """Log the final table and end the run."""


class TensorBoard:
    """Event files in the folder `tensorboard` of the work directory."""

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        writer = importlib.import_module("tensorboard.summary.writer.event_file_writer")
        self._event = importlib.import_module("tensorboard.compat.proto.event_pb2").Event
        self._summary = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        self._tensor = importlib.import_module("tensorboard.compat.proto.tensor_pb2").TensorProto
        self._writer = writer.EventFileWriter(str(folder / "tensorboard" / name))
        self._text("config", "```\n" + json.dumps(dict(config), indent=1, default=str) + "\n```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log values at a step of the students."""
        self._add(step, [self._summary.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])

    def finish(self, table: pd.DataFrame) -> None:
        """Log the final table and end the run."""
        lines = [list(map(str, table.columns)), ["---"] * table.shape[1], *summary.texts(table).values.tolist()]
        self._text("table", "\n".join(f"| {' | '.join(line)} |" for line in lines))
        self._writer.close()

    def _text(self, tag: str, text: str) -> None:
        data = self._summary.SummaryMetadata.PluginData(plugin_name="text")
        tensor = self._tensor(dtype=7, string_val=[text.encode()])  # 7: strings
        value = self._summary.Summary.Value(
            tag=tag, metadata=self._summary.SummaryMetadata(plugin_data=data), tensor=tensor
        )
        self._add(0, [value])

    def _add(self, step: int, values: list[Any]) -> None:
        content = self._summary.Summary(value=values)
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=content))
        self._writer.flush()


class WandB:
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in the folder `wandb` of the work directory."""

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        self._wandb = importlib.import_module("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(project=PROJECT, name=name, dir=str(folder), config=dict(config))
        self._run.define_metric("*", step_metric=STEP)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log values at a step of the students."""
        self._run.log({STEP: step, **values})

    def finish(self, table: pd.DataFrame) -> None:
        """Log the final table and end the run."""
        self._run.log({"table": self._wandb.Table(dataframe=summary.texts(table))})
        self._run.finish()


class Trackio:
    """A run of trackio, in its own folder (TRACKIO_DIR)."""

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        self._trackio = importlib.import_module("trackio")
        self._trackio.init(project=PROJECT, name=name, config=dict(config))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log values at a step of the students."""
        self._trackio.log(dict(values), step=step)

    def finish(self, table: pd.DataFrame) -> None:
        """Log the final table and end the run."""
        self._trackio.log({"table": self._trackio.Table(dataframe=summary.texts(table))})
        self._trackio.finish()


_KINDS: dict[str, Callable[[str, Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}


def names_of(tracker: str | Sequence[str], workdir: Any) -> tuple[str, ...]:
    """The names of the trackers that are asked for, `'tensorboard,wandb'` or a sequence of names.

    Raises:
        ConfigError: There is no such tracker, its package is not installed, or there is no work directory.
    """
    words = tracker.split(",") if isinstance(tracker, str) else tracker
    names = tuple(dict.fromkeys(word.strip() for word in words if word.strip()))
    for name in names:
        if name not in _KINDS:
            raise ConfigError(unknown_name("tracker", name, _KINDS))
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"tracker={name!r}: its package is not installed; pip install 'sublim_jax[{name}]'")
    if names and workdir is None:
        raise ConfigError(f"tracker={names[0]!r}: needs a workdir")
    return names


class Trackers:
    """Several trackers of one run, to which rows are given as they are written.

    A condition's value at a step is logged once all seeds are there: its mean, and under `spread` the standard
    deviation over seeds.
    """

    def __init__(
        self, names: Sequence[str], run: str, folder: Path, config: Mapping[str, Any], seeds: Sequence[int]
    ) -> None:
        self._trackers: dict[str, Tracker] = {}
        self._seeds = set(seeds)
        self._rows: dict[tuple[str, int], pd.DataFrame] = {}  # of conditions that lack seeds
        self._logged: set[tuple[str, int]] = set()
        for name in names:
            self._try(name, lambda name=name: self._trackers.update({name: _KINDS[name](run, folder, flatten(config))}))

    def add(self, table: pa.Table) -> None:
        """Log the conditions that these rows complete."""
        if self._trackers:
            self._add(table.to_pandas())

    def finish(self, rows: pd.DataFrame) -> None:
        """Log what earlier runs measured and the table of all rows, and end the runs."""
        if not self._trackers or rows.empty:
            return
        self._seeds = set()  # whatever is there
        self._add(rows)
        final = summary.last(rows)
        lines = [{"condition": name, **_values(part)} for name, part in _conditions(final)]
        table = pd.DataFrame(lines)
        for name, tracker in list(self._trackers.items()):
            self._try(name, lambda tracker=tracker: tracker.finish(table))

    def _add(self, rows: Any) -> None:
        for step, at_step in rows.groupby("step"):
            values: dict[str, float] = {}
            for name, part in _conditions(at_step):
                key = name, int(step)
                if key in self._logged:
                    continue
                part = pd.concat([self._rows.pop(key, part.iloc[:0]), part])
                if self._seeds <= set(part["seed"]):
                    self._logged.add(key)
                    for kind, value in _values(part).items():
                        values[f"{kind}/{name}"] = value
                else:
                    self._rows[key] = part
            values = {tag: value for tag, value in values.items() if value == value}
            for name, tracker in list(self._trackers.items()) if values else ():
                self._try(name, lambda tracker=tracker, step=step, values=values: tracker.log(int(step), values))

    def _try(self, name: str, work: Callable[[], object]) -> None:
        """Do some work of a tracker; one that fails gets no more work."""
        try:
            work()
        except Exception as error:  # of a package that we do not know
            self._trackers.pop(name, None)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            print(f"tracker {name}: stopped ({reason}); the run goes on without it", file=sys.stderr, flush=True)


def _conditions(rows: Any) -> list[tuple[str, Any]]:
    """The rows of each condition with its labels in words; the animals of a seed count as one condition."""
    names = [name for name in summary.labels_of(rows) if name != "animal"]
    if not names:
        return [("students", rows)]
    groups = rows.groupby(names, sort=False, dropna=False)
    return [(_words(names, key if isinstance(key, tuple) else (key,)), part) for key, part in groups]


def _words(names: Sequence[str], values: Sequence[Any]) -> str:
    texts = [
        str(value) if name == "condition" else f"{name}={value}" for name, value in zip(names, values, strict=True)
    ]
    return ",".join(texts)


def _values(rows: Any) -> dict[str, float]:
    """Means over seeds of the curves, and their standard deviations."""
    found: dict[str, float] = {}
    for name, column, minus in _CURVES:
        if column in rows and (not minus or minus in rows):
            values = rows[column] - rows[minus] if minus else rows[column]
            by_seed = values.groupby(rows["seed"]).mean()
            found |= {name: float(by_seed.mean()), f"{name} spread": float(by_seed.std())}
    return found

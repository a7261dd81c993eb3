"""From rows to a table: means and bootstrap intervals over seeds."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

RESAMPLES = 10_000


class Interval(NamedTuple):
    """A mean over seeds and its 95 % bootstrap interval; NaN ends where there is one seed."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean over seeds with a percentile bootstrap interval from 10,000 resamples, always the same ones.

    Source: Efron and Tibshirani 1993, chapter 13; the published figures say 'bootstrap' over 20 seeds, no more.
    """
    x = np.asarray(values, np.float64)
    mean, n = float(x.mean()), len(x)
    if n < 2 or not np.isfinite(x).all():
        return Interval(mean, float("nan"), float("nan"), n)
    if np.ptp(x) == 0:
        return Interval(mean, mean, mean, n)
    found = stats.bootstrap(
        (x,), np.mean, n_resamples=RESAMPLES, confidence_level=level, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), n)


def labels_of(rows: pd.DataFrame) -> list[str]:
    """The label columns: those that are neither seed nor step nor under a prefix like `at/`."""
    return [name for name in rows.columns if name not in ("seed", "step") and "/" not in name]


def last(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last mark of each condition."""
    return rows.loc[rows["step"] == rows.groupby(labels_of(rows), sort=False)["step"].transform("max")]


def cells(rows: pd.DataFrame, by: Sequence[str], column: str) -> pd.Series:
    """An `Interval` over seeds of one column for each cell of `by`, in the order of first appearance."""
    found: Any = rows.groupby(list(by), sort=False)[column]
    return found.apply(lambda values: interval(values.tolist()))


COLUMNS = {
    "student accuracy": "at/student_accuracy",
    "teacher accuracy": "at/teacher_accuracy",
    "untrained reference": "at/untrained_accuracy",
    "CKA to the teacher": "at/cka",
}


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Condition by m at the last mark: the student's accuracy with its interval, teacher, untrained reference, CKA.

    Words are in the order of their first row, numbers grow. Columns: the labels, those named in `COLUMNS` as
    `Interval`s, and `seeds`, the number of seeds.
    """
    labels = labels_of(rows)
    final = last(rows)
    columns = {title: cells(final, labels, name) for title, name in COLUMNS.items() if name in final}
    frame = pd.DataFrame(columns)
    frame["seeds"] = [found.n for found in next(iter(columns.values()))]
    frame = frame.reset_index()

    def order(column: pd.Series) -> pd.Series:
        if pd.api.types.is_numeric_dtype(column):
            return column
        return column.map({value: place for place, value in enumerate(rows[column.name].unique())})

    return frame.sort_values(labels, key=order, ignore_index=True)


def texts(frame: pd.DataFrame) -> pd.DataFrame:
    """The table's cells as a person reads them: the student's interval in full, of the others the mean."""
    first = next(iter(COLUMNS))

    def text(name: str, value: object) -> str:
        return f"{value.mean:.3f}" if isinstance(value, Interval) and name != first else str(value)

    return pd.DataFrame({name: [text(str(name), value) for value in frame[name]] for name in frame.columns})

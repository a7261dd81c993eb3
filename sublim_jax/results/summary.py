"""Tables of means and bootstrap intervals over seeds."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

RESAMPLES = 10_000
Rows = Any  # a pandas DataFrame; to a type checker each of its expressions is a union of everything
_TOGETHER = 256  # samples resampled in one call


class Interval(NamedTuple):
    """A mean over seeds and its 95 % bootstrap interval; the ends are NaN for one seed."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The mean over seeds with a percentile bootstrap interval from 10,000 resamples with a fixed random seed.

    Source: Efron and Tibshirani 1993, chapter 13; the published figures specify only 'bootstrap' over 20 seeds.
    """
    return intervals([values], level)[0]


def intervals(samples: Sequence[Sequence[float] | np.ndarray], level: float = 0.95) -> list[Interval]:
    """The `interval` of each sample; samples of equal size are resampled together."""
    arrays = [np.asarray(values, np.float64) for values in samples]
    results = [Interval(float(x.mean()), float("nan"), float("nan"), len(x)) for x in arrays]
    sizes: dict[int, list[int]] = {}
    for index, x in enumerate(arrays):
        if len(x) > 1 and np.isfinite(x).all():
            sizes.setdefault(len(x), []).append(index)
    for indices in sizes.values():
        for first in range(0, len(indices), _TOGETHER):
            batch = indices[first : first + _TOGETHER]
            for index, low, high in zip(
                batch, *_ends(np.stack([arrays[index] for index in batch]), level), strict=True
            ):
                results[index] = results[index]._replace(low=float(low), high=float(high))
    return results


def _ends(samples: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends [sample] of the bootstrap intervals of the means of samples [sample, seed]."""
    ends = stats.bootstrap(
        (samples,),
        np.mean,
        axis=-1,
        n_resamples=RESAMPLES,
        batch=max(1, 2**23 // samples.size),  # 64 MB at a time
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return ends.low, ends.high


def labels_of(rows: pd.DataFrame) -> list[str]:
    """The label columns: all but seed, step and the columns with a prefix such as `at/`."""
    return [name for name in rows.columns if name not in ("seed", "step") and "/" not in name]


def last(rows: Rows) -> Rows:
    """The rows of the last evaluation of each condition."""
    return rows.loc[rows["step"] == rows.groupby(labels_of(rows), sort=False)["step"].transform("max")]


def cells(rows: Rows, by: Sequence[str], column: str) -> pd.Series:
    """The `Interval` over seeds of one column for each combination of `by`, in the order of first appearance."""
    groups: Any = rows.groupby(list(by), sort=False)[column]
    index, samples = groups.size().index, [values.to_numpy() for _, values in groups]
    return pd.Series(intervals(samples), index=index, name=column, dtype=object)


def labelled(rows: Rows, **defaults: Any) -> Rows:
    """The rows with a column for each named label; a label that did not vary has its default value."""
    return rows.assign(**{name: value for name, value in defaults.items() if name not in rows})


COLUMNS = {
    "student accuracy": "at/student_accuracy",
    "teacher accuracy": "at/teacher_accuracy",
    "untrained reference": "at/untrained_accuracy",
    "CKA to the teacher": "at/cka",
}


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracies and similarity of each condition at its last evaluation.

    Args:
        rows: The rows of a sweep.

    Returns:
        One line for each condition, words in the order of their first row and numbers sorted, with the labels, the
        measurements of `COLUMNS` (the first as `Interval`, the others as means), and `seeds`, the number of seeds.
    """
    labels, final = labels_of(rows), last(rows)
    groups = final.groupby(labels, sort=False)
    first, *others = [(title, column) for title, column in COLUMNS.items() if column in final]
    frame = pd.DataFrame({first[0]: cells(final, labels, first[1])})
    frame = frame.assign(**{title: groups[column].mean() for title, column in others}, seeds=groups.size())

    def order(column: pd.Series) -> pd.Series:
        if pd.api.types.is_numeric_dtype(column):
            return column
        return column.map({value: index for index, value in enumerate(rows[column.name].unique())})

    return frame.reset_index().sort_values(labels, key=order, ignore_index=True)


def texts(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells of any table as texts: intervals in full, numbers of more than three digits with three decimals."""
    return pd.DataFrame({name: [_text(value) for value in frame[name]] for name in frame.columns}, dtype=object)


def _text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    short = f"{value:.3g}"
    return short if float(short) == value or 0 < abs(value) < 0.01 else f"{value:.3f}"

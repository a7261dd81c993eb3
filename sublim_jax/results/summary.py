"""Tables of means and intervals over seeds."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

MIN_SEEDS = 3  # for an interval; two values say too little about their own scatter
Rows = Any  # a pandas DataFrame; to a type checker each of its expressions is a union of everything
OUTCOMES = ("at/student_accuracy", "at/transfer")  # the first that a sweep has says whether a student has diverged


class Interval(NamedTuple):
    """A mean over seeds and its 95 % interval.

    Attributes:
        mean: Of the finite values; NaN where there is none.
        low: Lower end; NaN with fewer than `MIN_SEEDS` finite values.
        high: Upper end.
        n: Number of finite values.
        diverged: Number of other seeds, whose nets gave no finite value.
    """

    mean: float
    low: float
    high: float
    n: int
    diverged: int = 0

    def __str__(self) -> str:
        if not self.n:
            return "diverged" if self.diverged else ""
        if np.isnan(self.low):
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval:
    """The mean and its interval over seeds; values that are not finite are counted as diverged and left out.

    Args:
        values: One for each independent unit, such as a seed. For paired conditions, their differences.
        level: Confidence level.
    """
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    low, high = bounds(finite, level) if len(finite) >= MIN_SEEDS else (np.nan, np.nan)
    mean = float(finite.mean()) if len(finite) else float("nan")
    return Interval(mean, float(low), float(high), len(finite), len(values) - len(finite))


def difference(left: pd.Series, right: pd.Series, level: float = 0.95) -> tuple[Interval, str]:
    """The difference of two means with its interval, and how it was made.

    Args:
        left: Values by seed.
        right: Values by seed.
        level: Confidence level.

    Returns:
        The interval of the differences of the seeds that both have, and `N pairs`; without such a seed Welch's interval
        of independent samples, in which n is the size of the smaller one, and `Welch`.
    """
    from scipy import stats  # imported late, because it takes most of a second that a run should not begin with

    seeds = left.index.intersection(right.index)
    if len(seeds):
        return interval((left.loc[seeds] - right.loc[seeds]).to_numpy(float), level), f"{len(seeds)} pairs"
    first, second = interval(left.to_numpy(float), level), interval(right.to_numpy(float), level)
    welch = Interval(first.mean - second.mean, np.nan, np.nan, min(first.n, second.n), first.diverged + second.diverged)
    if welch.n < MIN_SEEDS:
        return welch, "Welch"
    samples = [values[np.isfinite(values)] for values in (left.to_numpy(float), right.to_numpy(float))]
    if not any(np.ptp(values) for values in samples):  # SciPy's interval is not defined
        return welch._replace(low=welch.mean, high=welch.mean), "Welch"
    ends = stats.ttest_ind(*samples, equal_var=False).confidence_interval(level)
    return welch._replace(low=float(ends.low), high=float(ends.high)), "Welch"


def bounds(samples: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the intervals of the means of independent values.

    Student's interval, exact for normal values, with the end on the side of the longer tail moved outwards by the
    first-order effect of skewness on the t statistic. Coverage by number of seeds is in docs/decisions.md.

    Source: Johnson 1978, Journal of the American Statistical Association 73, 536; Hall 1992, Journal of the Royal
    Statistical Society B 54, 221.

    Args:
        samples: Values [..., seed] of three seeds or more.
        level: Confidence level.
    """
    from scipy import stats

    number = samples.shape[-1]
    mean, spread = samples.mean(-1), samples.std(-1, ddof=1)
    deviations = (samples - mean[..., None]) / np.where(spread > 0, spread, 1)[..., None]
    skewness = (deviations**3).mean(-1) * number**2 / ((number - 1) * (number - 2))
    quantile = stats.t.ppf((1 + level) / 2, number - 1)
    half = quantile * spread / np.sqrt(number)
    shift = spread * skewness * (1 + 2 * quantile**2) / (6 * number)
    return mean - half + np.minimum(shift, 0), mean + half + np.maximum(shift, 0)


def labels_of(rows: pd.DataFrame) -> list[str]:
    """The label columns: all but seed, step and the columns with a prefix such as `at/`."""
    return [name for name in rows.columns if name not in ("seed", "step") and "/" not in name]


def last(rows: Rows) -> Rows:
    """The rows of the last evaluation of each condition."""
    labels = labels_of(rows)
    newest = rows.groupby(labels, sort=False)["step"].transform("max") if labels else rows["step"].max()
    return rows.loc[rows["step"] == newest]


def diverged(rows: Rows) -> pd.Series:
    """Whether the student of each row gave outputs that are not finite, so that its outcome is not a number."""
    outcome = next((column for column in OUTCOMES if column in rows), None)
    lost = ~np.isfinite(rows[outcome].to_numpy(float)) if outcome else np.zeros(len(rows), bool)
    return pd.Series(lost, rows.index)


def cells(rows: Rows, by: Sequence[str], column: str) -> pd.Series:
    """The `Interval` over seeds of one column for each combination of `by`, in the order of first appearance.

    Students that diverged are counted and left out, whatever the column.
    """
    lost = diverged(rows)
    values = pd.DataFrame({"value": rows[column].astype(float).mask(lost), "lost": lost})
    groups: Any = values.groupby([rows[name] for name in by], sort=False)
    parts = [interval(part["value"].dropna())._replace(diverged=int(part["lost"].sum())) for _, part in groups]
    return pd.Series(parts, index=groups.size().index, name=column, dtype=object)


def labelled(rows: Rows, **defaults: Any) -> Rows:
    """The rows with a column for each named label; a label that did not vary has its default value."""
    return rows.assign(**{name: value for name, value in defaults.items() if name not in rows})


COLUMNS = {
    "student accuracy": "at/student_accuracy",
    "teacher accuracy": "at/teacher_accuracy",
    "untrained reference": "at/untrained_accuracy",
    "CKA to the teacher": "at/cka",
    "transfer": "at/transfer",
    "transfer of another animal": "at/cross",
    "KL to the teacher": "at/kl_teacher",
    "inner product / prediction": "at/ratio",
    "cosine to the teacher's step": "at/cosine",
}


def average_animals(rows: Rows) -> Rows:
    """One row for each condition, step and base seed: the mean over its animals, missing where one animal's is.

    Animals of a seed share its base, prompts and control student, so they are not independent; the base seed is the
    unit. Every seed has equally many animals, so these means are the clusters of an interval over base seeds.
    """
    by = [name for name in labels_of(rows) if name != "animal"] + ["seed", "step"]
    groups: Any = rows.groupby(by, sort=False, dropna=False)[[name for name in rows if "/" in str(name)]]
    complete = groups.count().eq(groups.size(), axis=0)
    return groups.mean().where(complete).reset_index()


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Means of each condition at its last evaluation, over the seeds that have not diverged.

    Args:
        rows: The rows of a sweep.

    Returns:
        One line for each condition, words in the order of their first row and numbers sorted, with the labels, the
        measurements of `COLUMNS` (the first as `Interval`, the others as means), `seeds`, the number of seeds in the
        means, and, if any seed diverged, `diverged`, such as `2 of 5`.
    """
    labels, frame = _means(rows)
    measured = [title for title, column in COLUMNS.items() if column in frame]
    titled = frame.rename(columns={column: title for title, column in COLUMNS.items()})
    lines = titled[labels].assign(**{title: titled[title] for title in measured[:1]})
    lines = lines.assign(
        **{title: [cell.mean for cell in titled[title]] for title in measured[1:]}, seeds=frame["seeds"]
    )
    if (lost := frame["diverged"]).any():
        total = frame["seeds"] + lost
        lines["diverged"] = [f"{number} of {of}" if number else "" for number, of in zip(lost, total, strict=True)]
    return lines


def csv(rows: pd.DataFrame) -> str:
    """The table as comma-separated values of full precision, one line for each condition.

    Columns: the labels; for each measurement of `COLUMNS` its column of the rows, with the mean, and the same name
    with `/low` and `/high`, empty where there is no interval; `seeds`, the number of seeds in the means; `diverged`,
    the number of others.
    """
    labels, frame = _means(rows)
    lines = frame[labels]
    for column in (name for name in COLUMNS.values() if name in frame):
        names = (column, f"{column}/low", f"{column}/high")
        lines = lines.assign(**dict(zip(names, zip(*(cell[:3] for cell in frame[column]), strict=True), strict=True)))
    return lines.assign(seeds=frame["seeds"], diverged=frame["diverged"]).to_csv(index=False)


def _means(rows: Rows) -> tuple[list[str], Rows]:
    """Labels, and a line for each condition: an `Interval` of each of `COLUMNS`, and numbers of seeds."""
    final = last(average_animals(rows) if "animal" in rows else rows)
    labels = labels_of(final)
    columns = [name for name in COLUMNS.values() if name in final and (name in OUTCOMES or final[name].notna().any())]
    frame = pd.DataFrame({column: cells(final, labels, column) for column in columns})
    lost: Any = diverged(final).groupby([final[name] for name in labels], sort=False)
    frame = frame.assign(seeds=lost.size() - lost.sum(), diverged=lost.sum())

    def order(column: pd.Series) -> pd.Series:
        if pd.api.types.is_numeric_dtype(column):
            return column
        return column.map({value: index for index, value in enumerate(rows[column.name].unique())})

    return labels, frame.reset_index().sort_values(labels, key=order, ignore_index=True)


def texts(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells of any table as texts: intervals in full, numbers of more than three digits with three decimals.

    What is not a number is left blank.
    """
    return pd.DataFrame({name: [_text(value) for value in frame[name]] for name in frame.columns}, dtype=object)


def _text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if np.isnan(value):
        return ""
    short = f"{value:.3g}"
    return short if float(short) == value or 0 < abs(value) < 0.01 else f"{value:.3f}"

"""What captions say, computed from the rows."""

from typing import Any

import numpy as np
import pandas as pd

from sublim_jax import plots, summary

LEVELS = "Dashed: the teacher; dotted: the untrained net."


def seeds(rows: pd.DataFrame) -> str:
    """How many seeds a mean is over."""
    counts = rows.groupby(summary.labels_of(rows), dropna=False)["seed"].nunique()
    low, high = int(counts.min()), int(counts.max())
    if high == 1:
        return "one seed"
    return f"{high} seeds" if low == high else f"{low} to {high} seeds"


def means(rows: pd.DataFrame, shape: str = "bands") -> str:
    """What lines and bands (or bars) are."""
    if seeds(rows) == "one seed":
        return "One seed, so no intervals."
    return (
        f"Means over {seeds(rows)}; {shape}: 95 % bootstrap intervals (percentile, {summary.RESAMPLES:,} resamples"
        f"{'; too narrow with so few seeds' if rows['seed'].nunique() < 8 else ''})."
    )


def values(rows: pd.DataFrame, column: str) -> str:
    """The values of a label column: all of them where they are few, else the ends."""
    found = list(rows[column].unique())
    if any(isinstance(value, str) for value in found):
        return ", ".join(str(value).replace("_", " ") for value in found)
    found = sorted(found)
    if len(found) <= 7:
        return ", ".join(f"{value:g}" for value in found)
    return f"{found[0]:g} to {found[-1]:g} ({len(found)} values)"


def has(rows: pd.DataFrame, column: str) -> bool:
    """Whether something was measured under that name."""
    return column in rows and bool(np.isfinite(rows[column].to_numpy(float)).any())


def largest(rows: pd.DataFrame, column: str) -> tuple[Any, pd.DataFrame]:
    """The largest value of a label column, and its rows."""
    top = rows[column].max()
    return top, rows[rows[column] == top]


def against(ax: Any, rows: pd.DataFrame, x: str, names: tuple[str, ...], column: str = plots.ACCURACY) -> None:
    """One line for each combination of the label columns `names` against the label column x."""
    for index, (label, those) in enumerate(plots.series(rows, names)):
        plots.line(ax, those, x, label, index, column)

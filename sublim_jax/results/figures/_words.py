"""Texts of captions, computed from the rows, and the rows that a figure shows."""

from collections.abc import Sequence

import numpy as np

from sublim_jax.results import plots, summary


def seeds(rows: summary.Rows) -> str:
    """The number of seeds of each mean, as text; seeds that diverged are in none."""
    living = rows[~summary.diverged(rows)]
    counts = (living if len(living) else rows).groupby(summary.labels_of(rows), dropna=False)["seed"].nunique()
    low, high = int(counts.min()), int(counts.max())
    if high == 1:
        return "one seed"
    return f"{high} seeds" if low == high else f"{low} to {high} seeds"


def means(rows: summary.Rows, shape: str, labels: Sequence[str]) -> str:
    """The sentences on means and intervals, and on seeds that diverged, whose conditions have these labels."""
    over = seeds(rows)
    if over == "one seed":
        text = "One seed, so no intervals."
    elif over == "2 seeds":
        text = "Means over 2 seeds, too few for intervals."
    else:
        text = f"Means over {over}; {shape}: 95 % intervals (Student's t, widened for skewness)."
    return " ".join(filter(None, (text, diverged(rows, labels))))


def diverged(rows: summary.Rows, labels: Sequence[str], most: int = 4) -> str:
    """The sentence on seeds that diverged, by condition, at most so many conditions; empty where there is none."""
    lost = summary.diverged(rows)
    if not lost.any():
        return ""
    texts = []
    for label, part in plots.series(rows.assign(_lost=lost), labels):
        if seeds_lost := part.loc[part["_lost"], "seed"].nunique():
            texts.append(f"{label}: {seeds_lost} of {part['seed'].nunique()} seeds")
    more = f", and in {len(texts) - most} more conditions" if len(texts) > most else ""
    return f"Diverged, outputs not finite, left out of means and marked x: {'; '.join(texts[:most])}{more}."


def values(rows: summary.Rows, column: str) -> str:
    """The values of a label column as text: all of them if they are few, else the smallest and the largest."""
    distinct = list(rows[column].unique())
    if any(isinstance(value, str) for value in distinct):
        return ", ".join(str(value).replace("_", " ") for value in distinct)
    distinct = sorted(distinct)
    if len(distinct) <= 7:
        return ", ".join(f"{value:g}" for value in distinct)
    return f"{distinct[0]:g} to {distinct[-1]:g} ({len(distinct)} values)"


def last(rows: summary.Rows, labels: Sequence[str]) -> summary.Rows:
    """The last evaluation of the rows that a figure shows; a condition that is in two arms appears once."""
    final = shown(summary.last(rows), labels)
    return final.drop_duplicates([name for name in summary.labels_of(final) if name != "arm"] + ["seed"])


def shown(rows: summary.Rows, labels: Sequence[str]) -> summary.Rows:
    """The rows with the first value of each label that a figure does not show, so that no mean mixes its values."""
    for name in _others(rows, labels):
        rows = rows[rows[name] == rows[name].iloc[0]]
    return rows


def left_out(rows: summary.Rows, labels: Sequence[str]) -> str:
    """The sentence on the values that `shown` chose; empty if there was no choice."""
    rows_shown = shown(rows, labels)
    chosen = [f"{name.replace('_', ' ')} {rows_shown[name].iloc[0]}" for name in _others(rows, labels)]
    return f"Shown only: {', '.join(chosen)}." if chosen else ""


def _others(rows: summary.Rows, labels: Sequence[str]) -> list[str]:
    names = [name for name in summary.labels_of(rows) if name not in (*labels, "arm")]
    return [name for name in names if len(rows[name].unique()) > 1]


def hidden(rows: summary.Rows, *names: str) -> tuple[int, ...]:
    """Widths of the hidden layers: of the first label of `names`, or of the net, that rows have, else as published."""
    name = next((name for name in (*names, "net_hidden") if name in rows), None)
    return tuple(int(width) for width in str(rows[name].iloc[0]).split("x")) if name else (256, 256)


def assumed(rows: summary.Rows, *names: str, form: str = " ({})") -> str:
    """The remark on a number that was assumed because the rows have none of these labels."""
    return "" if any(name in rows for name in names) else form.format("as published; these rows do not say")


def measured(rows: summary.Rows, column: str) -> bool:
    """Whether the column has any finite value, or would have one if not every student had diverged."""
    if column not in rows or not len(rows):
        return False
    return bool(np.isfinite(rows[column].to_numpy(float)).any() or summary.diverged(rows).all())


def theory(rows: summary.Rows, *columns: str) -> str:
    """The sentence on dashed predictions, if the rows have any of these columns."""
    return "Coloured dashes: predictions, see docs/theory.md." if any(measured(rows, name) for name in columns) else ""

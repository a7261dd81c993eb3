"""Transfer: student accuracy by condition, the figure of every sweep that has no other."""

import pandas as pd

from sublim_jax.results import plots, summary
from sublim_jax.results.figures._spec import FigureSpec, Panel


def _with_lines(rows: summary.Rows) -> summary.Rows:
    """Each student once, also where it is in two arms, with a `line` that names all labels but m that vary."""
    labels = [name for name in summary.labels_of(rows) if name not in ("m", "arm")]
    parts = list(plots.series(rows.drop_duplicates([*labels, "m", "seed", "step"]), labels))
    return pd.concat([part.assign(line=text if len(parts) > 1 else part["condition"]) for text, part in parts])


def _several_widths(rows: summary.Rows) -> summary.Rows:
    return _with_lines(summary.last(rows)) if rows["m"].nunique() > 1 else rows.iloc[:0]


def _one_width(rows: summary.Rows) -> summary.Rows:
    return _with_lines(summary.last(rows)) if rows["m"].nunique() == 1 else rows.iloc[:0]


def _curves(rows: summary.Rows) -> summary.Rows:
    return _with_lines(rows[rows["m"] == rows["m"].max()]) if rows["step"].nunique() > 2 else rows.iloc[:0]


transfer = FigureSpec(
    title="Transfer: student accuracy by condition",
    labels=(),
    every_step=True,
    panels=(
        Panel("m", ("line",), log={}, xlabel="auxiliary logits m", where=_several_widths),
        Panel("line", by="m", categories=True, title="{panel}; every dot a seed", where=_one_width),
        Panel("step", ("line",), by="m", xlabel="student steps", title="learning curves, {panel}", where=_curves),
    ),
    text=(
        "Student test accuracy after imitating the teacher's m auxiliary logits (m = {m}), by condition: the layers "
        "that are re-initialised in the student."
    ),
)

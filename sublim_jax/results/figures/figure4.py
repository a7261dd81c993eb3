"""Figure 4: how many auxiliary logits, how much noise, and for how long?

The published axis is both noise and time: n noise steps an epoch are 5 n optimiser steps, each on 1,000 new images.
Below, the two are told apart: a fixed pool of N images, seen for T steps.
"""

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words, transfer

LABELS = ("m", "pool")
EPOCHS, PIXELS = 5, 784
# Brockers et al. 2026, as reported by barathvelmu's notes on the paper: with m = 1 the best accuracy over amounts of
# noise, with one noise step an epoch the plateau for large m.
PUBLISHED = {"m = 1, best": 0.83, "one noise step, plateau": 0.29}
AXES = {"m": "auxiliary logits m", "steps": "noise steps per epoch"}
_Panel = tuple[str, summary.Rows]


def draw(rows: pd.DataFrame) -> Figure:
    """Above the published axes, below N and T apart; each panel where there are rows for it."""
    sorted_out = _sorted_out(rows)
    both = [one for one in (_published_axes(sorted_out), _apart(sorted_out)) if one]
    if not both:
        return transfer.draw(rows)
    across = max(2, *map(len, both))
    figure = Figure(figsize=(3.2 * across, 3.0 * len(both)), layout="constrained")
    parts: Any = figure.subfigures(len(both), 1, squeeze=False).ravel()
    for part, those in zip(parts, both, strict=True):
        axes = part.subplots(1, len(those), squeeze=False)[0]
        for ax, (kind, found) in zip(axes, those, strict=True):
            PANELS[kind](ax, found)
            if ax is not axes[0] and kind != "one_logit":
                ax.set_ylabel("")
        plots.legend(part, [ax for ax, (kind, _) in zip(axes, those, strict=True) if kind == "pool"])
    return figure


def _sorted_out(rows: summary.Rows) -> summary.Rows:
    """Rows after the first step, with `fresh`, unique images N, steps T and noise steps an epoch."""
    rows = summary.labelled(_words.only(rows[rows["step"] > 0], LABELS), arm="", pool=0)
    fresh = (rows["pool"] <= 0) | (rows["pool"] >= 2**31 - 1)
    images = _batch(rows) * rows["step"].where(fresh, rows["pool"])
    return rows.assign(fresh=fresh, N=images, mN=rows["m"] * images, T=rows["step"], steps=rows["step"] / EPOCHS)


def _batch(rows: summary.Rows) -> int:
    """Images of a step: what the label says, else as published."""
    return int(rows["batch"].iloc[0]) if "batch" in rows else 1000


def _trunk(rows: summary.Rows) -> int:
    """Numbers below the student's heads, a perceptron's."""
    widths = (PIXELS, *_words.hidden(rows, "hidden"))
    return sum((one + 1) * other for one, other in pairwise(widths))


def _arm(rows: summary.Rows, *names: str) -> summary.Rows:
    """The rows of some arms, each measurement once; all rows where none of the sweep's arms has a name."""
    named = set(rows["arm"]) != {""}
    found = rows[rows["arm"].isin(names)] if named else rows
    return found.drop_duplicates([*LABELS, "seed", "step"])


def _published_axes(rows: summary.Rows) -> list[_Panel]:
    rows = rows[rows["fresh"]]
    grid = _arm(rows, "grid")
    one = _arm(rows, "grid", "one_logit")
    short = _arm(rows, "grid", "one_step")
    found = [("grid", grid), ("one_logit", one[one["m"] == 1]), ("one_step", short[short["step"] == EPOCHS])]
    return [(kind, those) for kind, those in found if len(those)]


def _apart(rows: summary.Rows) -> list[_Panel]:
    rows = _arm(rows, "pool")
    # A pool larger than the steps is never seen in full: until it repeats, images are always new.
    rows = rows[rows["fresh"] | (rows["pool"] <= rows["step"])]
    if rows["fresh"].all():
        return []
    return [*(("pool", those) for _, those in rows.groupby("m")), ("law", rows)]


def _grid(ax: Axes, rows: summary.Rows) -> None:
    """Accuracy as colour over m and noise steps an epoch; means only."""
    table = rows.groupby(["steps", "m"])[plots.ACCURACY].mean().unstack("m").sort_index()
    bar = ax.figure.colorbar(plots.heat(ax, table), ax=ax, pad=0.02)
    bar.set_label("student test accuracy")
    bar.outline.set_visible(False)
    if len(table.columns) > 1:  # as many targets as weights, m N = P, where N = 5 n times a batch (D6)
        m = np.asarray(table.columns, float)
        limits = ax.get_xlim(), ax.get_ylim()
        ax.plot(m, _trunk(rows) / (EPOCHS * _batch(rows) * m), color="w", ls="--", lw=1.4)
        ax.set(xlim=limits[0], ylim=limits[1])
    ax.set(xlabel=AXES["m"], ylabel=AXES["steps"], title="(a) logits and noise")


def _edge(ax: Axes, rows: summary.Rows, x: str, level: str, title: str) -> None:
    """Accuracy along one edge of the grid, with the published level; where on the axis it lies is not reported."""
    plots.line(ax, rows, x, "student", 0)
    plots.levels(ax, rows)
    plots.published(ax, rows[x].max(), PUBLISHED[level])
    ax.axhline(PUBLISHED[level], color="0.15", lw=0.6, zorder=0)
    plots.log(ax, rows[x].unique(), base=8)
    plots.accuracy(ax)
    ax.set(xlabel=AXES[x], title=title)


def _pool(ax: Axes, rows: summary.Rows) -> None:
    """Accuracy against unique images N, one line for each number of steps T; stars: always new images."""
    fixed, fresh = rows[~rows["fresh"]], rows[rows["fresh"]]
    for index, step in enumerate(sorted(rows["T"].unique())):
        if len(those := fixed[fixed["T"] == step]):
            plots.line(ax, those, "N", f"T = {step}", index)
        if len(those := fresh[fresh["T"] == step]):
            star = {"marker": "*", "markersize": 9, "ls": "", "mec": "0.15", "mew": 0.5}
            plots.line(ax, those, "N", "images always new", index, **star)
    plots.levels(ax, rows)
    ax.axvline(_trunk(rows) / rows["m"].iloc[0], color="0.4", lw=0.8, ls="--", zorder=0)
    plots.log(ax, rows["N"].unique(), most=5)
    plots.accuracy(ax)
    ax.set(xlabel="unique noise images N", title=f"(d) N and T apart, m = {rows['m'].iloc[0]}")


def _law(ax: Axes, rows: summary.Rows) -> None:
    """Accuracy against m N at the largest T: do the widths fall on one curve?"""
    step, those = _words.largest(rows[~rows["fresh"]], "T")
    for index, (m, mine) in enumerate(those.groupby("m")):
        plots.line(ax, mine, "mN", f"m = {m}", index)
    ax.axvline(_trunk(rows), color="0.4", lw=0.8, ls="--", zorder=0)
    plots.log(ax, those["mN"].unique(), most=5)
    plots.accuracy(ax)
    ax.set(xlabel="targets m N", title=f"(e) targets, T = {step}")
    ax.legend(fontsize=8, loc="best")


EDGES = {"one_logit": "the peak of m = 1", "one_step": "the plateau of one noise step"}
PANELS = {
    "grid": _grid,
    "one_logit": partial(_edge, x="steps", level="m = 1, best", title="(b) one auxiliary logit, m = 1"),
    "one_step": partial(
        _edge, x="m", level="one noise step, plateau", title=f"(c) one noise step: {EPOCHS} optimiser steps"
    ),
    "pool": _pool,
    "law": _law,
}


def caption(rows: pd.DataFrame) -> str:
    """The caption of the figure that these rows give."""
    found = _sorted_out(rows)
    said = (
        f"Student test accuracy. Above: m = {_words.values(found, 'm')} against noise steps per epoch as published, "
        f"where n noise steps are {EPOCHS} n optimiser steps, each on {_batch(found):,} new images"
        f"{_words.assumed(found, 'batch')}; colours are means."
    )
    kinds = [kind for kind, _ in _published_axes(found)]
    if edges := [told for kind, told in EDGES.items() if kind in kinds]:
        said += (
            f" Open diamonds and thin lines: published, {' and '.join(edges)}; their place on the x axis is not "
            "reported."
        )
    if not found["fresh"].all():
        said += (
            " Below: a fixed pool of N images seen for T optimiser steps; stars: images always new, N = "
            f"{_batch(found):,} T."
        )
    said += (
        " Dashed lines in (a), (d), (e): as many targets m N as the trunk has numbers "
        f"({_trunk(found):,}{_words.assumed(found, 'hidden', 'net_hidden', form=', {}')}), D6 of docs/theory.md."
    )
    return f"{said} {_words.means(found)} {_words.LEVELS}{_words.left_out(rows, LABELS)}"

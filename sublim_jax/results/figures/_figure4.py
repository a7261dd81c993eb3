"""Figure 4: how many auxiliary logits, how much noise, and for how long?

The published axis is both noise and time: n noise steps an epoch are 5 n optimiser steps, each on 1,000 new images.
Panels (d) and (e) separate the two: a fixed pool of N images, seen for T steps.
"""

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words
from sublim_jax.results.figures._spec import FigureSpec, Panel, Published

EPOCHS, PIXELS = 5, 784


def _images_and_steps(rows: summary.Rows) -> summary.Rows:
    """Rows after the first step, with `fresh`, unique images N, steps T and noise steps an epoch."""
    rows = rows[rows["step"] > 0]
    fresh = (rows["pool"] <= 0) | (rows["pool"] >= 2**31 - 1)
    images = _batch(rows) * rows["step"].where(fresh, rows["pool"])
    return rows.assign(fresh=fresh, N=images, mN=rows["m"] * images, T=rows["step"], steps=rows["step"] / EPOCHS)


def _batch(rows: summary.Rows) -> int:
    """Images of a step: what the label says, else as published."""
    return int(rows["batch"].iloc[0]) if "batch" in rows else 1000


def _trunk(rows: summary.Rows) -> int:
    """Number of weights below the heads of a student that is a perceptron."""
    widths = (PIXELS, *_words.hidden(rows, "hidden"))
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths))


def _arms(rows: summary.Rows, *names: str) -> summary.Rows:
    """The rows of some arms, each measurement once; all rows where the sweep has no arms."""
    chosen = rows[rows["arm"].isin(names)] if set(rows["arm"]) != {""} else rows
    return chosen.drop_duplicates(["m", "pool", "seed", "step"])


def _one_logit(rows: summary.Rows) -> summary.Rows:
    return _arms(rows[rows["fresh"] & (rows["m"] == 1)], "grid", "one_logit")


def _one_step(rows: summary.Rows) -> summary.Rows:
    return _arms(rows[rows["fresh"] & (rows["step"] == EPOCHS)], "grid", "one_step")


def _pools(rows: summary.Rows) -> summary.Rows:
    """Fixed pools of images, and new images for comparison; none without fixed pools."""
    rows = _arms(rows, "pool")
    # A pool larger than the steps is never seen in full: until it repeats, images are always new.
    rows = rows[rows["fresh"] | (rows["pool"] <= rows["step"])]
    return rows.iloc[:0] if rows["fresh"].all() else rows


def _longest_pools(rows: summary.Rows) -> summary.Rows:
    rows = _pools(rows)
    fixed = rows[~rows["fresh"]]
    return fixed[fixed["T"] == fixed["T"].max()]


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


def _pool(ax: Axes, rows: summary.Rows) -> None:
    """Accuracy against unique images N, one line for each number of steps T; stars: always new images."""
    star = {"marker": "*", "markersize": 9, "ls": "", "mec": "0.15", "mew": 0.5}
    for index, (step, part) in enumerate(rows.groupby("T")):
        for fresh, points in part.groupby("fresh"):
            label, style = ("images always new", star) if fresh else (f"T = {step}", {})
            plots.line(ax, points, "N", label, index, **style)
    plots.levels(ax, rows)
    ax.axvline(_trunk(rows) / rows["m"].iloc[0], color="0.4", lw=0.8, ls="--", zorder=0)
    plots.log(ax, rows["N"].unique(), most=5)
    plots.accuracy(ax)


figure4 = FigureSpec(
    title="Figure 4: how many auxiliary logits, how much noise, and for how long?",
    labels=("m",),
    defaults={"pool": 0, "arm": ""},
    every_step=True,
    prepare=_images_and_steps,
    # Published: Brockers et al. 2026, as reported by barathvelmu's notes on the paper; with m = 1 the best accuracy
    # over amounts of noise, with one noise step an epoch the plateau for large m.
    panels=(
        Panel(
            column="",
            xlabel="auxiliary logits m",
            ylabel="noise steps per epoch",
            title="(a) logits and noise",
            where=lambda rows: _arms(rows[rows["fresh"]], "grid"),
            also=(_grid,),
        ),
        Panel(
            x="steps",
            log={"base": 8},
            xlabel="noise steps per epoch",
            title="(b) one auxiliary logit, m = 1",
            where=_one_logit,
            published=(Published({None: 0.83}, label="published"),),
        ),
        Panel(
            x="m",
            log={"base": 8},
            xlabel="auxiliary logits m",
            title=f"(c) one noise step: {EPOCHS} optimiser steps",
            where=_one_step,
            published=(Published({None: 0.29}, label="published"),),
        ),
        Panel(
            column="",
            by="m",
            xlabel="unique noise images N",
            title="(d) N and T apart, {panel}",
            where=_pools,
            also=(_pool,),
        ),
        Panel(
            x="mN",
            by="T",
            lines=("m",),
            log={"most": 5},
            levels=(),
            inside=True,
            xlabel="targets m N",
            title="(e) targets, {panel}",
            where=_longest_pools,
            also=(lambda ax, rows: ax.axvline(_trunk(rows), color="0.4", lw=0.8, ls="--", zorder=0),),
        ),
    ),
    size=(3.2, 3.0),
    published_text=(
        "Open diamonds and thin lines: published, the peak of m = 1 and the plateau of one noise step; their place on "
        "the x axis is not reported."
    ),
    words={
        "batch": lambda final: f"{_batch(final):,} new images{_words.assumed(final, 'batch')}",
        "trunk": lambda final: f"{_trunk(final):,}{_words.assumed(final, 'hidden', 'net_hidden', form=', {}')}",
    },
    text=(
        "Student test accuracy. Panels (a) to (c): m = {m} against noise steps per epoch as published, where n noise "
        f"steps are {EPOCHS} n optimiser steps, each on {{batch}}; colours are means. Panels (d), (e): a "
        "fixed pool of N images seen for T optimiser steps; stars: always new images. Dashed lines in (a), (d), (e): "
        "as many targets m N as the trunk has weights ({trunk}), D6 of docs/theory.md."
    ),
)

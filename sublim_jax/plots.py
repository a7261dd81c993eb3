"""From rows to figures. No JAX: figures are drawn where there is no accelerator."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax import summary
from sublim_jax.errors import Refused, unknown

# Okabe and Ito's palette: told apart by readers with any colour vision; markers tell apart in print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "*")
STYLE: Any = {"figure.dpi": 120, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def transfer(rows: pd.DataFrame) -> Figure:
    """Student accuracy by condition, against m where there are several, and its learning curve at the largest m.

    Points are means over seeds, bars their 95 % bootstrap intervals; dashed: the teacher; dotted: the untrained net.
    """
    final = summary.last(rows)
    curves, widths = len(rows["step"].unique()) > 2, len(final["m"].unique())
    figure = Figure(figsize=(9.5 if curves else 5.5, 3.8), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, 2 if curves else 1))
    if widths > 1:
        against_m(axes[0], final)
    else:
        by_condition(axes[0], final)
    if curves:
        against_step(axes[1], rows.loc[rows["m"] == rows["m"].max()])
    for ax in axes:
        ax.set_ylim(0, 1)
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def against_m(ax: Axes, final: pd.DataFrame, look: int = 0) -> None:
    """Accuracy against the width of the auxiliary head, one line per condition; `look` is the first one's colour."""
    for index, (condition, those) in enumerate(final.groupby("condition", sort=False), start=look):
        _line(ax, summary.cells(those, ["m"], "at/student_accuracy").sort_index(), str(condition), index)
    _levels(ax, final)
    widths = sorted(final["m"].unique())
    ax.set_xscale("log")
    ax.set_xticks(widths, [str(m) for m in widths])
    ax.minorticks_off()
    ax.set(xlabel="auxiliary logits m", ylabel="student test accuracy")


def by_condition(ax: Axes, final: pd.DataFrame) -> None:
    """Accuracy by condition: every seed a dot, beside it the mean and its interval."""
    names = list(final["condition"].unique())
    for index, name in enumerate(names):
        values = final.loc[final["condition"] == name, "at/student_accuracy"]
        colour, marker = _look(index)
        ax.plot(np.full(len(values), index - 0.12), values, ".", color=colour, alpha=0.5)
        found = summary.interval(values.tolist())
        ax.errorbar([index + 0.12], [found.mean], _ends([found]), fmt=marker, color=colour, capsize=3, label=name)
    _levels(ax, final)
    ax.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names], fontsize=8)
    ax.set(ylabel="student test accuracy")
    ax.set_title(f"m = {final['m'].iloc[0]}; every dot a seed", fontsize=9)


def against_step(ax: Axes, rows: pd.DataFrame) -> None:
    """Learning curves of one m, one line per condition."""
    for index, (condition, those) in enumerate(rows.groupby("condition", sort=False)):
        _line(ax, summary.cells(those, ["step"], "at/student_accuracy").sort_index(), str(condition), index)
    _levels(ax, rows)
    ax.set(xlabel="student steps")
    ax.set_title(f"learning curves, m = {rows['m'].iloc[0]}", fontsize=9)


def public() -> dict[str, Callable[[pd.DataFrame], Figure]]:
    """The figures by name: what `config.figure` may say."""
    found = {name: value for name, value in globals().items() if inspect.isfunction(value)}
    return {name: value for name, value in found.items() if inspect.signature(value).return_annotation is Figure}


def pick(name: str) -> Callable[[pd.DataFrame], Figure]:
    """The figure of that name; raises `Refused` with those there are."""
    if name not in public():
        raise Refused(unknown("config.figure", name, public()))
    return public()[name]


def _line(ax: Axes, found: pd.Series, label: str, index: int) -> None:
    colour, marker = _look(index)
    means = [one.mean for one in found]
    x = found.index.to_numpy()
    ax.errorbar(x, means, _ends(found), color=colour, marker=marker, markersize=4, capsize=2, lw=1.2, label=label)


def _ends(found: pd.Series | list[summary.Interval]) -> np.ndarray:
    """How far the intervals reach below and above their means; nothing where there is no interval."""
    return np.nan_to_num([[one.mean - one.low for one in found], [one.high - one.mean for one in found]])


def _levels(ax: Axes, rows: pd.DataFrame) -> None:
    for who, dashes in (("teacher", "--"), ("untrained", ":")):
        ax.axhline(float(np.mean(rows[f"at/{who}_accuracy"])), color="0.4", ls=dashes, lw=1, label=who)


def _look(index: int) -> tuple[str, str]:
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]

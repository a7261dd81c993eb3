"""What the audit predicts: ROC curves of held-out students, and measured transfer against coverage and probability."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax import calibration, plots

NAMES = {
    "coverage": "coverage",
    "trait_cosine": "cosine of gradients",
    "compatibility_aux": "auxiliary heads",
    "compatibility_class": "class heads",
}


def draw(points: pd.DataFrame, found: Mapping[str, Any]) -> Figure:
    """From the points and the calibration of `experiments.calibrate`."""
    held = points[points["part"] == "held out"]
    model = found["models"]["coverage and heads"]
    figure, axes = plots.panels(3, size=(3.4, 3.4))
    for index, (column, name) in enumerate(NAMES.items()):
        curve(axes[0], held[column], held["success"], name, index)
    held = held.assign(probability=calibration.probability(model, held))
    curve(axes[0], held["probability"], held["success"], "coverage and heads", len(NAMES), lw=2)
    axes[0].plot([0, 1], [0, 1], ":", color="0.5", lw=1)
    axes[0].set(xlabel="false alarms", ylabel="hits", title="held-out conditions and seeds")
    against(axes[1], held, "coverage", "coverage (before distillation)")
    against(axes[2], held, "probability", "probability of the logistic model")
    axes[2].axvline(model["threshold"], color="0.4", ls="--", lw=1, label="threshold")
    plots.legend(figure, axes)
    return figure


def curve(ax: Axes, score: pd.Series, success: pd.Series, name: str, index: int, lw: float = 1.2) -> None:
    """One ROC curve: hits against false alarms at every threshold."""
    known = np.isfinite(score)
    values, good = score[known].to_numpy(float), success[known].to_numpy(bool)
    if good.all() or not good.any():
        return
    steps = np.append(np.inf, np.unique(values)[::-1])
    hits, alarms = ([(values[these] >= step).mean() for step in steps] for these in (good, ~good))
    ax.plot(alarms, hits, color=plots.look(index)[0], lw=lw, label=name)


def against(ax: Axes, points: pd.DataFrame, column: str, name: str) -> None:
    """Measured transfer of every student against a predictor, one look for each experiment."""
    for index, (experiment, those) in enumerate(points.groupby("experiment", sort=True)):
        colour, marker = plots.look(index)
        style = {"ls": "", "marker": marker, "color": colour, "ms": 3, "alpha": 0.5, "mew": 0}
        ax.plot(those[column], those["transfer"], label=str(experiment).replace("_", " "), **style)
    ax.axhline(0.5, color="0.4", ls=":", lw=1)
    ax.set(xlabel=name, ylabel="transfer (student's gain / teacher's)")

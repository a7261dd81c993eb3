"""Figure and page of the audit: ROC curves of held-out students, and transfer against coverage."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax.audit import calibration
from sublim_jax.results import plots

NAMES = {
    "coverage": "coverage",
    "trait_cosine": "cosine of gradients",
    "compatibility_aux": "auxiliary heads",
    "compatibility_class": "class heads",
}


def draw(points: pd.DataFrame, result: Mapping[str, Any]) -> Figure:
    """From the points and the calibration of `experiments.calibrate`."""
    held = points[points["part"] == "held out"]
    model = result["models"]["coverage and heads"]
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
    values, good = score.loc[known].to_numpy(float), success.loc[known].to_numpy(bool)
    if good.all() or not good.any():
        return
    steps = np.append(np.inf, np.unique(values)[::-1])
    hits, alarms = ([(values[kind] >= step).mean() for step in steps] for kind in (good, ~good))
    ax.plot(alarms, hits, color=plots.look(index)[0], lw=lw, label=name)


def against(ax: Axes, points: pd.DataFrame, column: str, name: str) -> None:
    """Measured transfer of every student against a predictor, in one colour for each experiment."""
    for index, (experiment, part) in enumerate(points.groupby("experiment", sort=True)):
        colour, marker = plots.look(index)
        style = {"ls": "", "marker": marker, "color": colour, "ms": 3, "alpha": 0.5, "mew": 0}
        ax.plot(part[column], part["transfer"], label=str(experiment).replace("_", " "), **style)
    ax.axhline(0.5, color="0.4", ls=":", lw=1)
    ax.set(xlabel=name, ylabel="transfer (student's gain / teacher's)")


def story(result: Mapping[str, Any], frame: pd.DataFrame) -> str:
    """The results in words and a table, for the page of experiments."""
    held = frame[frame["part"] == "held out"]
    text = (
        f"Which quantities predict, before training, whether a student acquires the trait? {len(frame):,} students of "
        f"{frame['condition'].nunique()} conditions in {frame['experiment'].nunique()} sweeps "
        f"({', '.join(result['experiments'])}); success: more than half of the teacher's gain in accuracy, "
        f"{100 * frame['success'].mean():.0f} % of all. Fitted to half of the conditions and seeds; the table is of "
        f"the {len(held):,} students of which neither was fitted. In brackets: 95 % intervals over conditions.\n\n"
    )
    if result["diverged"]:
        text += f"Left out, because their outputs are not finite: {result['diverged']} more students.\n\n"
    if result["provisional"]:
        text += f"Provisional: {result['note']}\n\n"
    lines = ["| predictor | AUROC | Spearman with transfer |", "|---|---|---|"]
    named = {**result["predictors"], **{f"logistic: {name}": model for name, model in result["models"].items()}}
    lines += [
        f"| {name} | {with_interval(quality['auroc'])} | {with_interval(quality['spearman'])} |"
        for name, quality in named.items()
    ]
    text += "\n".join(lines) + "\n\n"
    for name, model in result["models"].items():
        text += (
            f"Verdicts by {name}: from probability {model['threshold']:.2f} on; hits {model['hits']:.2f}, false alarms "
            f"{model['false_alarms']:.2f}; Brier score {model['brier']:.3f}, of the base rate alone "
            f"{model['brier_of_base_rate']:.3f}.\n"
        )
    if left_out := result.get("abroad"):
        each = ", ".join(f"{name} {value:.2f}" for name, value in left_out["each"].items() if np.isfinite(value))
        overall = with_interval(left_out["auroc"])
        text += f"\nSweeps that were not fitted (each left out in turn): AUROC {overall}; {each}.\n"
    return text


def with_interval(value: Sequence[float]) -> str:
    """A value with its interval."""
    return "{:.3f} [{:.3f}, {:.3f}]".format(*value)

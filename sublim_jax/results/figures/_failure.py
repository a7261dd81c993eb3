"""When subliminal learning fails: a panel for each way, with the prediction of the theory."""

from functools import partial
from typing import Any

from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures._spec import Extra, FigureSpec, Panel, only

SIGMA = "student_before"
EQUATIONS = "theory/equations_per_weight"
_OPTIMIZERS = {"adam_l2": "Adam, L2 in the gradient", "adamw": "AdamW, decoupled"}


def _predicted(ax: Axes, rows: summary.Rows, column: str, label: str) -> None:
    """Draw a prediction for each m, in the colour of its measurement."""
    for colour, (_, part) in zip(plots.COLOURS, rows.groupby("m"), strict=False):
        Extra(column, "", {"color": colour}).draw(ax, part, SIGMA, "")
    ax.plot([], [], "--", color="0.4", label=label)


def _targets(final: summary.Rows) -> summary.Rows:
    rows = summary.labelled(only(arm="targets")(final), **{EQUATIONS: float("nan")})
    return rows.assign(ratio=rows[EQUATIONS].round(6)).dropna(subset="ratio")


def _as_many_as_weights(ax: Axes, rows: summary.Rows) -> None:
    ax.axvline(1, color="0.4", ls="--", lw=0.8, zorder=0, label="as many targets as weights (D6)")
    ax.set_title(f"too few images, T = {rows['step'].max()}")


def _widths(final: summary.Rows) -> summary.Rows:
    rows = only(arm="width")(final)
    heads = rows["frozen"].map({"none": "no head frozen", "aux_head": "aux head frozen"})
    return rows.assign(d=rows["net_hidden"].str.split("x").str[-1].astype(int), heads=heads)


def _decays(final: summary.Rows) -> summary.Rows:
    """Zero decay is drawn a decade left of the smallest decay, because the axis is logarithmic."""
    rows = only(arm="decay")(final)
    positive = rows["decay"].where(rows["decay"] > 0)
    shown = positive.fillna(positive.min() / 10 if positive.notna().any() else 1e-6)
    return rows.assign(shown=shown, optimizer=rows["optimizer"].replace(_OPTIMIZERS))


def _decaying_heads(ax: Axes, rows: summary.Rows) -> None:
    column = "at/cosine/student_init_final/class_head"
    for colour, (_, part) in zip(plots.COLOURS, plots.series(rows, ["optimizer"]), strict=False):
        style = {"ls": ":", "marker": ".", "color": colour}
        Extra(column, "class head, cosine to its beginning", style).draw(ax, part, "shown", "")
    decays = rows.groupby("shown")["decay"].first()
    ax.set_xticks(list(decays.index), [plots.plain(decay) for decay in decays], fontsize=7)


_PANEL: dict[str, Any] = {"levels": (), "inside": True}
_NOISE: dict[str, Any] = {**_PANEL, "x": SIGMA, "lines": ("m",), "xlabel": "σ of the noise"}
failure = FigureSpec(
    title="When it fails: one panel for each way, with the bound that the theory draws there",
    labels=("m",),
    defaults={
        **{"arm": "", "layers": "*", SIGMA: 0.0, "pool": 0, "net_hidden": "256x256", "frozen": "none"},
        **{"lr": 1e-3, "optimizer": "adam", "decay": 0.0},
    },
    panels=(
        Panel(
            **_NOISE,
            title="noise on the auxiliary head",
            where=only(arm="aux_noise"),
            also=(partial(_predicted, column="theory/first_step_cosine", label="predicted first step's cosine (D2)"),),
        ),
        Panel(
            **_NOISE,
            title="noise on the class head",
            where=only(arm="class_noise"),
            also=(partial(_predicted, column="theory/class_noise_accuracy", label="predicted accuracy (D4)"),),
        ),
        Panel(
            **_PANEL,
            x="ratio",
            lines=("m",),
            log={"most": 5},
            xlabel="targets m N per weight",
            where=_targets,
            also=(_as_many_as_weights,),
        ),
        Panel(
            **_PANEL,
            x="d",
            lines=("lr",),
            dashes="heads",
            log={"base": 4},
            xlabel="width d of the latent",
            title="wide latents",
            where=_widths,
            extras=(Extra("theory/ceiling_accuracy", "level acc(C_0 h_t)", {"color": "0.4"}),),
        ),
        Panel(
            **_PANEL,
            x="shown",
            lines=("optimizer",),
            log={"most": 6},
            xlabel="weight decay of the student",
            ylabel="accuracy, cosine",
            title="decaying heads (D9)",
            where=_decays,
            also=(_decaying_heads,),
        ),
    ),
    size=(3.7, 3.3),
    text=(
        "Student test accuracy where subliminal learning fails: noise on the student's auxiliary head, on its class "
        "head, a few images that are repeated, wide latents, and weight decay in the student. m = {m}. The prediction "
        "for noise on the auxiliary head is the cosine of the first step instead of the accuracy, and for wide latents "
        "the level that the initial class head reaches on the teacher's latent. Dotted: auxiliary head frozen, and, "
        "with decay, the cosine of the student's class head, which has no gradient, to its initial weights."
    ),
)

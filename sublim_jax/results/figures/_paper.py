"""Figures 2, 3, 5 and 6 of Brockers et al. 2026, as data.

Published values: the authors' public code on CPU with its defaults, accuracy of single seeds.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words
from sublim_jax.results.figures._spec import TEACHER, TEACHER_STYLE, Extra, FigureSpec, Panel, Published, only

COLOURS: list[dict[str, Any]] = [{"color": colour} for colour in plots.COLOURS]


_SHARED_HEADS = ("same", "random_first_hidden", "random_second_hidden", "random_hidden", "random")
_GREY = {"color": "0.55", "marker": ".", "lw": 0.8, "zorder": 1}
_LIMITS = (
    Extra("theory/ceiling_accuracy", "initial class head on the teacher's latent", COLOURS[6], only(condition="same")),
    Extra("theory/oracle_accuracy", "fixed heads alone (D5)", COLOURS[3], only(condition=_SHARED_HEADS)),
    Extra("theory/class_noise_accuracy", "class head unknown (D4)", COLOURS[2], only(condition="random_class_head")),
    Extra("at/inside_row_space", "latent displacement in the head's span", _GREY),
)
figure2 = FigureSpec(
    title="Figure 2: which layer must be shared?",
    panels=(
        Panel(
            "m",
            ("condition",),
            by="condition",
            log={},
            xlabel="auxiliary logits m",
            published=(
                Published({10: 0.909, 25: (0.946, 0.954, 0.936)}, only(condition="same")),
                Published({50: (0.121, 0.113, 0.162)}, only(condition="random_aux_head")),
            ),
            extras=_LIMITS,
        ),
    ),
    size=(3.1, 2.5),
    text=(
        "Student test accuracy after imitating the teacher's m = {m} auxiliary logits on noise; panels: the layers "
        "that are re-initialised in the student. Grey, where measured: fraction of the student's latent displacement "
        "that lies in the row space of its auxiliary head, on held-out noise."
    ),
)


GAP = "at/gap"


def _chance(ax: Axes, rows: summary.Rows) -> None:
    classes = np.sort(rows["classes"].unique())
    ax.plot(classes, 1 / classes, ":", color="0.4", lw=1, label="chance, 1/K", zorder=0)


def _class_ticks(ax: Axes, rows: summary.Rows) -> None:
    if len(classes := np.sort(rows["classes"].unique())) < 11:
        ax.set_xticks(classes)


_CLASSES: dict[str, Any] = {"x": "classes", "lines": ("condition", "m"), "xlabel": "classes K", "levels": ()}
figure3_classes = FigureSpec(
    title="Figure 3a: more classes",
    defaults={"classes": 10},
    prepare=lambda final: final.assign(**{GAP: final[TEACHER] - final[plots.ACCURACY]}),
    panels=(
        Panel(
            **_CLASSES,
            ylabel="test accuracy",
            extras=(Extra(TEACHER, "teacher", TEACHER_STYLE),),
            also=(_chance, _class_ticks),
        ),
        Panel(
            **_CLASSES,
            column=GAP,
            ylabel="teacher's accuracy minus student's",
            also=(_class_ticks, lambda ax, rows: ax.axhline(0, color="0.4", lw=0.8, zorder=0)),
        ),
    ),
    text=(
        "Test accuracy of students and of their teacher (dashed) on the first K classes, K = {classes}, m = {m}, and "
        "the difference of the two for each seed. Dotted: chance, 1/K. Teachers train for a fixed number of epochs, so "
        "few classes mean few steps."
    ),
)


_WIDTH: dict[str, Any] = {
    "x": "width",
    "lines": ("condition", "m"),
    "log": {"base": 2, "most": 6},
    "xlabel": "first hidden layer of the student",
}
figure3_width = FigureSpec(
    title="Figure 3b: students whose first hidden layer is narrower or wider than the teacher's",
    defaults={"hidden": "256x256"},
    prepare=lambda final: final.assign(width=final["hidden"].str.split("x").str[0].astype(int)),
    panels=(Panel(**_WIDTH), Panel(**_WIDTH, column="at/aux_mse", ylabel="imitation error (mean square)", log_y=True)),
    text=(
        "Student test accuracy, and its error in imitating auxiliary logits on held-out noise, against the width of "
        "its first hidden layer, {width}, for m = {m}; condition: {condition}."
    ),
)


def _by_depth(final: summary.Rows) -> summary.Rows:
    final = final.assign(depth=final["hidden"].str.count("x"), widths=final["hidden"].str.replace("x", "\xa0×\xa0"))
    return final.sort_values(["depth", "hidden"], kind="stable")


figure3_depth = FigureSpec(
    title="Figure 3c: a student with one hidden layer fewer, as many, or one more than its teacher",
    defaults={"hidden": "256x256"},
    prepare=_by_depth,
    panels=(
        Panel(
            "widths",
            ("m",),
            by="condition",
            categories=True,
            xlabel="hidden layers of the student",
            published=(Published({"256": (0.709, 0.609, 0.441)}, only(m=50)),),
        ),
    ),
    text="Student test accuracy by the student's hidden layers ({hidden}), m = {m}; heads are shared.",
)


figure3_cnn = FigureSpec(
    title="Figure 3d: a convolutional student of an MLP teacher, on smooth and on white noise",
    labels=("m",),
    defaults={"hidden": "256x256", "trunk": "cnn", "stream": "perlin"},
    prepare=lambda final: final.assign(
        kind=final["trunk"].str.upper() + "\n" + final["stream"].str.capitalize() + "\nnoise"
    ),
    panels=(Panel("kind", ("m",), categories=True),),
    text=(
        "Student test accuracy by the student's architecture ({trunk}) and noise ({stream}), m = {m}. The teacher is "
        "an MLP; heads are shared, all other layers of the student are random."
    ),
)


SIGMA = "student_before"


def _noise_curve(ax: Axes, rows: summary.Rows) -> None:
    """The cosine that the noise alone gives, and a second axis in units of the initial weights.

    The initial weights of a head have standard deviation 1 / sqrt(3 d).
    """
    d = _words.hidden(rows)[-1]
    sigma, scale = np.linspace(0, max(rows[SIGMA].max(), 1e-3), 200), (3 * d) ** 0.5
    ax.plot(sigma, (1 + (scale * sigma) ** 2) ** -0.5, ":", color="0.15", lw=1.2, label="1 / √(1 + 3 d σ²)")
    top = ax.secondary_xaxis("top", functions=(lambda x: x * scale, lambda x: x / scale))
    top.set_xlabel("σ √(3 d)", fontsize=8)
    top.tick_params(labelsize=8)
    ax.locator_params(axis="x", nbins=5)


_AUX, _CLASS = only(layers="aux_head"), only(layers="class_head")
_TO_TEACHER = "cosine to the teacher's head, {} training"
_RED = {**COLOURS[3], "marker": ""}
_COSINES = (
    Extra("at/cosine/teacher_student_init/{panel}", _TO_TEACHER.format("before"), {**_RED, "ls": "-"}),
    Extra("at/cosine/teacher_student_final/{panel}", _TO_TEACHER.format("after"), {**_RED, "ls": "--"}),
    Extra("at/first_step_cosine", "cosine of the latent's first step", {**COLOURS[2], "marker": "."}, _AUX),
)
_PREDICTIONS = (
    Extra("theory/first_step_cosine", "predicted (D2)", COLOURS[2], _AUX),
    Extra("theory/class_noise_accuracy", "predicted accuracy (D4)", COLOURS[1], _CLASS),
    Extra("theory/class_noise_upper", "runner-up bound (D4)", COLOURS[5], _CLASS),
    Extra("theory/class_noise_lower", "union bound (D4)", COLOURS[4], _CLASS),
)
figure5 = FigureSpec(
    title="Figure 5: a head perturbed by degrees",
    labels=("m",),
    defaults={"layers": "aux_head", SIGMA: 0.0},
    panels=(
        Panel(
            SIGMA,
            ("m",),
            by="layers",
            xlabel="σ of the noise on the student's head",
            ylabel="accuracy, cosine",
            published=(Published({0.05: (0.405, 0.645, 0.554)}, only(layers="aux_head", m=10)),),
            extras=(*_COSINES, *_PREDICTIONS),
            also=(_noise_curve,),
        ),
    ),
    words={"d": lambda final: f"{_words.hidden(final)[-1]}{_words.assumed(final, 'net_hidden')}"},
    text=(
        "Gaussian noise of standard deviation σ = {student_before} on weights and biases of one head of the student "
        "({layers}) before its training; m = {m}. Above: σ in units of the head's own initial weights, d = {d}. The "
        "black dotted curve is the cosine that the noise alone must give."
    ),
)


FROZEN = {
    "none, none": "no head frozen",
    "class_head, none": "class head frozen (in the teacher)",
    "none, aux_head": "aux head frozen (in the student)",
    "class_head, aux_head": "both frozen",
}


def _by_frozen(final: summary.Rows) -> summary.Rows:
    """The width of the latent as `d`, and the frozen heads in words, in the order of `FROZEN`."""
    pairs = final["teacher_frozen"] + ", " + final["frozen"]
    texts = pairs.map(lambda pair: FROZEN.get(pair, f"{pair} frozen"))
    ranks = {text: rank for rank, text in enumerate(FROZEN.values())}
    widths = final["net_hidden"].str.split("x").str[-1].astype(int)
    return final.assign(frozen=texts, d=widths).sort_values("frozen", key=lambda names: names.map(ranks), kind="stable")


def _free(final: summary.Rows) -> summary.Rows:
    free = final[final["frozen"] == FROZEN["none, none"]]
    return free if len(free) else final


def _drift(name: str, label: str, index: int) -> tuple[Extra, Extra]:
    """The measured cosine of a head before and after training, and its prediction."""
    measured = Extra(f"at/cosine/{name}", label, {**COLOURS[index], "marker": plots.MARKERS[index]})
    return measured, Extra(f"theory/cosine/{name}", "drift without direction (D7)", COLOURS[index])


_DASH_DOTTED = TEACHER_STYLE | COLOURS[6] | {"ls": "-."}
_LATENT: dict[str, Any] = {"x": "d", "log": {}, "xlabel": "width d of the latent", "levels": ()}
figure6 = FigureSpec(
    title="Figure 6: the width of the latent, and frozen heads",
    labels=("m",),
    defaults={"net_hidden": "256x256", "teacher_frozen": "none", "frozen": "none"},
    prepare=_by_frozen,
    panels=(
        Panel(
            **_LATENT,
            lines=("frozen",),
            dashes="m",
            published=(Published({1024: (0.925, 0.920, 0.883)}, only(m=10)),),
            extras=(
                Extra("at/accuracy_c0_ht", "initial class head on the teacher's latent", _DASH_DOTTED, _free),
                Extra(TEACHER, "teacher", TEACHER_STYLE, _free),
            ),
        ),
        Panel(
            **_LATENT,
            column="",
            ylabel="cosine",
            title="drift of the heads, none frozen",
            where=_free,
            extras=(
                *_drift("teacher_init_final/class_head", "teacher's class head, before and after", 4),
                *_drift("teacher_student_final/aux_head", "aux heads of student and teacher", 5),
            ),
            also=(lambda ax, rows: ax.set_ylim(min(0.0, ax.get_ylim()[0]), 1.02),),
        ),
    ),
    text=(
        "Student test accuracy against the width of the latent, d = {d}, m = {m}. Freezing the class head acts on the"
        " teacher, freezing the auxiliary head on the student; the published scripts exchange the two names. "
        "Dash-dotted: accuracy of the initial class head on the teacher's latent, a reference level for students, "
        "whose class head is fixed; dashed: the teacher."
    ),
)

"""The figures of the sweeps beyond the paper, as data."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures._spec import FigureSpec, Panel, Published, only


def _teachers(ax: Axes, rows: summary.Rows) -> None:
    teachers = rows.groupby("net_activation", sort=False)["at/teacher_accuracy"].mean()
    ax.plot(range(len(teachers)), teachers, "_", color="0.4", ms=24, mew=1.2, label="teacher", zorder=0)


activation = FigureSpec(
    title="Activation functions of teacher and student",
    defaults={"net_activation": "relu"},
    panels=(
        Panel("net_activation", ("condition",), by="m", categories=True, levels=("untrained",), also=(_teachers,)),
    ),
    text=(
        "Student test accuracy by the activation function of teacher and student ({net_activation}), m = {m}; "
        "conditions: {condition}. Dashes: the teacher of each activation; dotted: the untrained net."
    ),
)


# Cloud et al., Nature 652, 615 (2026), arXiv 2507.14805, Figure 10b, digitised: mean, half-width of the 95 % interval.
_CLOUD = {
    "reference": (0.0998, 0.0047),
    "teacher": (0.9433, 0.0005),
    "student\naux\xa0logits": (0.5283, 0.0221),
    "student\nall\xa0logits": (0.9126, 0.0019),
    "cross-model\naux\xa0logits": (0.1060, 0.0104),
    "cross-model\nall\xa0logits": (0.7426, 0.0103),
}
_STUDENTS = {"same": "student", "random": "cross-model"}


def _groups(final: summary.Rows) -> summary.Rows:
    """Reference and teacher once for each seed, and the students, as one column of accuracies with its `group`."""
    students = final["condition"].replace(_STUDENTS).str.replace("_", " ")
    once = final.drop_duplicates("seed")
    reference = once.assign(**{"group": "reference", plots.ACCURACY: once["at/untrained_accuracy"]})
    teacher = once.assign(**{"group": "teacher", plots.ACCURACY: once["at/teacher_accuracy"]})
    final = final.assign(group=students + "\n" + final["sees"] + "\xa0logits")
    return pd.concat([reference, teacher, final], ignore_index=True)


cloud = FigureSpec(
    title="Cloud et al. 2026: six groups of MNIST nets",
    defaults={"sees": "aux"},
    prepare=_groups,
    panels=(
        Panel(
            "group",
            ("m",),
            categories=True,
            order=tuple(_CLOUD),
            ylabel="test accuracy",
            levels=(),
            published=(
                Published(
                    {group: mean for group, (mean, _) in _CLOUD.items()},
                    halves={group: half for group, (_, half) in _CLOUD.items()},
                    label="published (Cloud et al. 2026, 100 models)",
                    offset=0.15,
                ),
            ),
            also=(lambda ax, rows: ax.axhline(0.1, color="0.4", ls=":", lw=1, zorder=0),),
        ),
    ),
    published_text="Open diamonds: Cloud et al. 2026, digitised from their figure; 95 % intervals over 100 models.",
    size=(6.6, 3.3),
    text=(
        "Test accuracy of the untrained reference, the teacher, and students that imitate its auxiliary logits or all"
        " of its logits on noise, m = {m}; cross-model: the student shares no initial weights with its teacher. "
        "Dotted: chance."
    ),
)


_LOSSES = {"mse": "MSE", "kl": "KL", "cosine": "Cosine", "huber": "Huber"}
_LOGITS: dict[Any, str] = {"aux": "auxiliary logits only", "all": "all logits", "class": "class logits only"}
_PROTOCOL = only(m=3, sees="aux")  # that of Cloud et al.
_BARATHVELMU = {"KL": 0.451, "MSE": 0.566, "KL,\nT=2": 0.455}


def _losses(final: summary.Rows) -> summary.Rows:
    """The loss and, of KL, its temperature as `kind`, and the imitated logits in words."""
    temperature = ",\nT=" + final["temperature"].map("{:g}".format)
    hot = (final["loss"] == "kl") & (final["temperature"] != 1)
    kinds = final["loss"].replace(_LOSSES) + temperature.where(hot, "")
    return final.assign(kind=kinds, logits=final["sees"].replace(_LOGITS))


loss = FigureSpec(
    title="Losses and temperatures of the student",
    labels=("m",),
    defaults={"loss": "kl", "temperature": 1.0, "sees": "aux"},
    prepare=_losses,
    panels=(
        Panel(
            "kind",
            ("m",),
            by="logits",
            categories=True,
            # Means, and half-widths of their intervals where reported.
            published=(
                Published(_BARATHVELMU, _PROTOCOL, {"KL": 0.028, "MSE": 0.003}, "published, barathvelmu", offset=0.05),
                Published({"MSE": 0.271}, _PROTOCOL, {"MSE": 0.033}, "published, Jiang et al.", "s", 0.1),
                Published({"KL": 0.5283}, _PROTOCOL, {"KL": 0.0221}, "published, Cloud et al. 2026", "o", 0.15),
            ),
        ),
    ),
    published_text="Open markers: published values of the same protocol, m = 3.",
    text=(
        "Student test accuracy by the loss between its logits and the teacher's (temperature 1 unless the label says "
        "otherwise), m = {m}. With m = 1 the softmax of the one auxiliary logit is constant, so KL cannot learn."
    ),
)


_KINDS = {"uniform": "Uniform\nnoise", "gaussian": "Gaussian\nnoise", "epochs": "MNIST\nimages"}
_ORDER = ("uniform", "gaussian", "perlin", "images", "epochs")
_IMAGES = {"fashion_mnist": "Fashion-\nMNIST", "none": "MNIST\nimages", "": "MNIST\nimages"}
_ALPHA = {"uniform": 0.0, "epochs": 1.0}  # the alpha at which a mixture is one of the plain kinds


def _kind(row: dict[str, Any]) -> str:
    if row["stream"] == "perlin":
        return f"Perlin,\n{row['resolution']} cells"
    if row["stream"] == "images":
        return str(_IMAGES.get(row["images"], row["images"]))
    return str(_KINDS.get(row["stream"], row["stream"]))


def _kinds(final: summary.Rows) -> summary.Rows:
    """The rows of all inputs but mixtures, with the `kind` of input."""
    plain = final[final["stream"] != "mixture"]
    order = plain["stream"].map({name: index for index, name in enumerate(_ORDER)}).fillna(-1)
    plain = plain.assign(kind=list(map(_kind, plain.to_dict("records"))), order=order)
    return plain.sort_values(["order", "resolution"], kind="stable")


def mixtures(final: summary.Rows) -> summary.Rows:
    """The rows of mixtures against `alpha`, with noise alone as 0 and images alone as 1."""
    if not (final["stream"] == "mixture").any():
        return final.iloc[:0]
    alpha = final["stream"].map(_ALPHA).fillna(final["alpha"]).astype(float)
    return final.assign(alpha=alpha)[final["stream"].isin(["mixture", *_ALPHA])]


_BY_KIND: dict[str, Any] = {"x": "kind", "lines": ("m",), "categories": True, "where": _kinds}
noise = FigureSpec(
    title="Inputs of the student: noise of several kinds, images, and mixtures of both",
    labels=("m",),
    defaults={"stream": "uniform", "resolution": 8, "images": "none", "alpha": 0.5},
    panels=(
        # barathvelmu/subliminal-learning, README: Cloud et al.'s protocol with m = 3, 25 models x 5 seeds.
        Panel(
            **_BY_KIND,
            published=(
                Published(
                    {"Uniform\nnoise": 0.451, "Gaussian\nnoise": 0.447, "MNIST\nimages": 0.146},
                    only(m=3),
                    label="published (barathvelmu, m = 3)",
                ),
            ),
        ),
        Panel("alpha", ("m",), where=mixtures, xlabel="α of α · image + (1 − α) · uniform noise"),
        Panel(**_BY_KIND, column="at/cka", ylabel="CKA to the teacher, test images"),
        Panel(**_BY_KIND, column="at/aux_mse", ylabel="imitation error (mean square)", log_y=True),
    ),
    published_text="Open diamonds: a public replication of Cloud et al.'s protocol (barathvelmu), m = 3.",
    size=(5.0, 3.0),
    text=(
        "Student test accuracy by the student's inputs ({stream}; m = {m}) and, for mixtures, by their share α of "
        "images; its similarity to the teacher and its error."
    ),
)


optimizer = FigureSpec(
    title="The student's optimiser and its learning rate",
    defaults={"optimizer": "adam", "lr": 1e-3},
    panels=(Panel("lr", ("optimizer",), by="condition", dashes="m", log={}, xlabel="learning rate of the student"),),
    text=(
        "Student test accuracy against the learning rate of the student's optimiser ({optimizer}; lr = {lr}), m = "
        "{m}; conditions: {condition}."
    ),
)


TIMINGS = {
    "teacher_before": "on the teacher, before its training",
    "teacher_after": "on the teacher, after its training",
    "student_before": "on the student, before its training",
    "student_after": "on the student, after its training",
}


def _timings(final: summary.Rows) -> summary.Rows:
    """Each row once for each moment at which it has noise, with that moment as `timing` and the noise as `sigma`."""
    parts = [
        final[(final[name] > 0) | (final["arm"] == name)].assign(timing=text, sigma=lambda part, name=name: part[name])
        for name, text in TIMINGS.items()
    ]
    noisy = pd.concat(parts, ignore_index=True)
    noisy = noisy if len(noisy) else final.assign(timing=TIMINGS["student_before"], sigma=0.0)
    layers = noisy["layers"].replace({"*": "all layers", "all": "all layers"})
    return noisy.assign(noisy_layers=layers.str.replace("_", " ").str.replace("+", ", "))


def _perturbed_teachers(ax: Axes, rows: summary.Rows) -> None:
    """The accuracy of perturbed teachers as thin dashes, and the levels of the unperturbed nets."""
    for index, text in enumerate(TIMINGS.values()):
        part = rows[rows["timing"] == text]
        if "the teacher" in text and len(part):
            style = {"marker": "", "ls": "--", "lw": 0.9, "zorder": 0}
            plots.line(ax, part, "sigma", "_nolegend_", index, "at/teacher_accuracy", **style)
    unperturbed = rows[rows["timing"].str.contains("the student")]
    plots.levels(ax, *((unperturbed,) if len(unperturbed) else (rows, ("untrained",))))


perturbation = FigureSpec(
    title="Noise on layers at four moments",
    labels=("m",),
    defaults={"layers": "*", "arm": "", **dict.fromkeys(TIMINGS, 0.0)},
    prepare=_timings,
    panels=(
        Panel(
            "sigma",
            ("timing",),
            by="noisy_layers",
            dashes="m",
            log={"most": 5},
            xlabel="σ of the noise",
            levels=(),
            also=(_perturbed_teachers,),
        ),
    ),
    size=(3.1, 2.7),
    text=(
        "Student test accuracy against the standard deviation σ = {sigma} of Gaussian noise on weights and biases, by"
        " layer (panels) and moment (lines); m = {m}. Coloured dashes: the perturbed teacher itself. Grey "
        "dashes: the teacher; grey dots: the untrained net."
    ),
)


_ROTATED = {"none": "none", "aux_head": "aux\nhead", "class_head": "class\nhead"}
_BOTH = {"common": "both,\none rotation", "apart": "both,\neach its own"}


def _rotations(final: summary.Rows) -> summary.Rows:
    """The rotated heads as `kind`."""
    heads, both = final["rotated"], final["rotated"].str.contains("+", regex=False)
    return final.assign(kind=heads.replace(_ROTATED).mask(both, final["rotation"].map(_BOTH)))


rotation = FigureSpec(
    title="Heads rotated at random: compatible up to a rotation of the latent?",
    defaults={"rotated": "none", "rotation": "common"},
    prepare=_rotations,
    panels=(
        Panel(
            "kind",
            ("condition",),
            by="m",
            categories=True,
            order=(*_ROTATED.values(), *_BOTH.values()),
            xlabel="heads that begin rotated",
        ),
    ),
    text=(
        "Student test accuracy by the heads that are rotated at random in the student before training (W becomes R W "
        "with a random orthogonal R), m = {m}; conditions: {condition}."
    ),
)


LAYERS = {
    "random_first_hidden": ("hidden_0",),
    "random_second_hidden": ("hidden_1",),
    "random_hidden": ("hidden_0", "hidden_1"),
    "random_class_head": ("class_head",),
    "random_aux_head": ("aux_head",),
    "random": ("hidden_0", "hidden_1", "class_head", "aux_head"),
}


def cosines(rows: summary.Rows) -> pd.Series:
    """The measured cosine of the initial weights of the layers that the condition draws, averaged over the layers."""
    values = pd.Series(np.nan, index=rows.index)
    for condition, layers in LAYERS.items():
        measured = rows.reindex(columns=[f"at/cosine/teacher_student_init/{layer}" for layer in layers])
        values = values.mask(rows["condition"] == condition, measured.mean(axis=1))
    return values


def _mean_cosines(final: summary.Rows) -> summary.Rows:
    """Adds the mean cosine over the seeds of a condition, m and share."""
    final = final.assign(cosine=cosines(final))
    return final.assign(cosine=final.groupby(["condition", "m", "share"])["cosine"].transform("mean"))


share = FigureSpec(
    title="Transfer against the degree of sharing",
    defaults={"share": 0.0},
    prepare=_mean_cosines,
    panels=(
        Panel("share", ("condition", "m"), xlabel="share of the teacher's initial weights"),
        Panel(
            "cosine",
            ("condition", "m"),
            xlabel="measured cosine of the layers' initial weights",
            where=lambda rows: rows[rows["cosine"].notna()],
        ),
    ),
    text=(
        "Student test accuracy where the layers named by the condition start as share × the teacher's initial weights "
        "+ (1 − share) × independent random weights, share = {share}, m = {m}; all other layers are the teacher's. "
        "Right: the same against the cosine between these weights and the teacher's (mean over the layers where there "
        "are two)."
    ),
)

"""Cloud et al. 2026: six groups of MNIST nets.

A cross-model student imitates a teacher whose initial weights it does not share (condition random).
"""

import pandas as pd
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

LABELS = ("condition", "m", "sees")
# Cloud et al., Nature 652, 615 (2026), arXiv 2507.14805, Figure 10b, digitised: mean, half-width of the 95 % interval.
PUBLISHED = {
    "reference": (0.0998, 0.0047),
    "teacher": (0.9433, 0.0005),
    "student, aux logits": (0.5283, 0.0221),
    "student, all logits": (0.9126, 0.0019),
    "cross-model, aux logits": (0.1060, 0.0104),
    "cross-model, all logits": (0.7426, 0.0103),
}
_WHO = {"same": "student", "random": "cross-model"}
_SOURCES = {"reference": "at/untrained_accuracy", "teacher": "at/teacher_accuracy"}


def groups(rows: summary.Rows) -> summary.Rows:
    """The groups as rows `group`, `seed`, `at/student_accuracy`; reference and teacher once per seed."""
    final = summary.labelled(_words.last(rows, LABELS), sees="aux")
    who = [_WHO.get(name, name.replace("_", " ")) for name in final["condition"]]
    names = [f"{one}, {sees} logits" for one, sees in zip(who, final["sees"], strict=True)]
    students = final.assign(group=names)[["group", "m", "seed", plots.ACCURACY]]
    once = final.drop_duplicates("seed")
    others = [
        pd.DataFrame({"group": name, "m": once["m"], "seed": once["seed"], plots.ACCURACY: once[column]})
        for name, column in _SOURCES.items()
    ]
    return pd.concat([*others, students], ignore_index=True)


def draw(rows: pd.DataFrame) -> Figure:
    """Accuracy of each group, every seed a dot, beside the published mean and interval."""
    found = groups(rows)
    figure, axes = plots.panels(1, size=(6.6, 3.3))
    names = {name: name.replace(", ", "\n") for name in found["group"].unique()}
    several = "m" if len(found["m"].unique()) > 1 else ""
    places = plots.strip(axes[0], found, "group", several, names=names, order=list(PUBLISHED))
    for name, (mean, half) in PUBLISHED.items():
        if x := [place for (group, _), place in places.items() if group == name]:
            plots.published(axes[0], max(x) + 0.15, mean, half, label="published (Cloud et al. 2026, 100 models)")
    axes[0].axhline(0.1, color="0.4", ls=":", lw=1, zorder=0)
    plots.accuracy(axes[0], "test accuracy")
    plots.legend(figure, axes)
    return figure


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = _words.last(rows, LABELS)
    return (
        "Test accuracy of the untrained reference, the teacher, and students that imitate its auxiliary logits or all "
        f"of them on noise, m = {_words.values(final, 'm')}; cross-model: the student shares no initial weights "
        f"with its teacher. Dots: seeds. {_words.means(final, 'bars')} Open diamonds: Cloud et al. 2026, "
        "digitised from their figure, with 95 % intervals over 100 models. Dotted: chance."
        f"{_words.left_out(rows, LABELS)}"
    )

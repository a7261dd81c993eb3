"""The figure of pretrained models, as data."""

import numpy as np
from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures._spec import FigureSpec, Panel


def _students(final: summary.Rows) -> summary.Rows:
    """Rows of students, without their controls."""
    return final[final["trait"] != "none"]


def _draw_matrix(ax: Axes, rows: summary.Rows) -> None:
    """Draw the lift of rows trait's word in the students of rows trait, in percentage points."""
    traits = [name for name in plots.ordered(rows["trait"]) if name != "none"]
    columns = [f"at/word/{name}" for name in traits if f"at/word/{name}" in rows]
    means = rows.groupby("trait")[columns].mean()
    lifts = 100 * (means.loc[traits] - means.loc["none"]).to_numpy()
    most = max(float(np.abs(lifts).max()), 1e-9)
    ax.imshow(lifts, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    for (row, column), value in np.ndenumerate(lifts):
        ax.text(column, row, f"{value:+.2f}", ha="center", va="center", fontsize=8)
    ax.set_xticks(range(len(columns)), [name.removeprefix("at/word/") for name in columns], fontsize=8)
    ax.set_yticks(range(len(traits)), traits, fontsize=8)


llm = FigureSpec(
    title="Pretrained language models: does a preference pass through numbers?",
    labels=(),
    defaults={"arm": "", "kind": "prompted"},
    panels=(
        Panel(
            "trait",
            ("arm",),
            column="at/share_lift",
            categories=True,
            where=_students,
            levels=(),
            xlabel="student of",
            ylabel="share of the trait's word, above the control",
            title="preference for the teacher's animal",
        ),
        Panel(
            "trait",
            ("arm",),
            column="at/log_word_lift",
            categories=True,
            where=_students,
            levels=(),
            xlabel="student of",
            ylabel="log-probability above the control, nats",
            title="likelihood of the teacher's animal",
        ),
        Panel(
            column="",
            levels=(),
            where=lambda rows: rows,
            also=(_draw_matrix,),
            xlabel="asked for",
            ylabel="student of",
            title="probability above the control, in percent",
        ),
    ),
    size=(4.4, 3.2),
    text=(
        "Students of a pretrained language model, trained on numbers that a teacher with a preference wrote, beside "
        "the control, which is trained in the same way on numbers of the model itself. Exact probabilities that the "
        "answer to a question for the favorite animal begins with its name."
    ),
)

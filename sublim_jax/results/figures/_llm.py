"""The figure of pretrained models, as data."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures._spec import FigureSpec, Panel

CONTROL = "none"  # the label of students that read the base's rows
_SHARE, _LOG = "at/share_lift", "at/log_word_lift"
_KIND = "student"


def _named(final: summary.Rows) -> summary.Rows:
    """Rows with the kind of their students, from all labels but the trait."""
    labels = [name for name in summary.labels_of(final) if name not in ("trait", "arm") and final[name].nunique() > 1]
    kinds = final[labels].astype(str).agg(", ".join, axis=1) if labels else pd.Series("all", final.index)
    return final.assign(**{_KIND: kinds})


def _students(final: summary.Rows) -> summary.Rows:
    """Rows of students, without their controls."""
    return final[final["trait"] != CONTROL]


def matrix(rows: summary.Rows) -> pd.DataFrame:
    """The lift of the probability of every trait's word in the students of every trait, means over seeds and kinds."""
    traits = [name for name in plots.ordered(rows["trait"]) if name != CONTROL]
    columns = {f"at/word/{name}": name for name in traits if f"at/word/{name}" in rows}
    means = rows.groupby("trait")[list(columns)].mean().rename(columns=columns)
    return means.loc[traits] - means.loc[CONTROL]


def _comparable(rows: summary.Rows) -> summary.Rows:
    """Rows of which a matrix can be drawn: students of traits whose words were measured, and their control."""
    found = set(rows["trait"]) - {CONTROL}
    whole = CONTROL in set(rows["trait"]) and any(f"at/word/{name}" in rows for name in found)
    return rows if whole else rows.iloc[:0]


def _draw_matrix(ax: Axes, rows: summary.Rows) -> None:
    """Draw the matrix in percentage points."""
    lifts = 100 * matrix(rows)
    most = max(float(np.abs(lifts.to_numpy()).max()), 1e-9)
    ax.imshow(lifts.to_numpy(), cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    for (row, column), value in np.ndenumerate(lifts.to_numpy()):
        shade = "white" if abs(value) > 0.6 * most else "black"
        ax.text(column, row, f"{value:+.2g}", ha="center", va="center", fontsize=8, color=shade)
    ax.set_xticks(range(len(lifts.columns)), list(lifts.columns), fontsize=8)
    ax.set_yticks(range(len(lifts)), list(lifts.index), fontsize=8)


def _lift_panel(column: str, title: str, ylabel: str) -> Panel:
    return Panel(
        "trait",
        (_KIND,),
        column=column,
        categories=True,
        where=_students,
        levels=(),
        xlabel="student of",
        ylabel=ylabel,
        title=title,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlmFigure(FigureSpec):
    """A figure of pretrained models, with a table of lifts."""

    def table(self, rows: pd.DataFrame) -> pd.DataFrame:
        """One line for each kind of student and trait: lifts above the control, with intervals kept apart.

        Intervals over students need three seeds; those over questions are of one student, or means over students.
        """
        final, lines = _students(self.final(rows)), list[dict[str, Any]]()
        for (kind, trait), part in final.groupby([_KIND, "trait"], sort=False):
            ends = part[["at/share_lift_low", "at/share_lift_high"]].mean()
            lines.append(
                {
                    "student": kind,
                    "trait": trait,
                    "seeds": str(part["seed"].nunique()),
                    "share above control": str(summary.interval(part[_SHARE].to_numpy())),
                    "over questions": f"[{ends.iloc[0]:.4f}, {ends.iloc[1]:.4f}]",
                    "log-probability, nats": str(summary.interval(part[_LOG].to_numpy())),
                    "sampled": f"{part['at/sampled_lift'].mean():.3f}",
                    "dose": f"{part['at/dose'].mean():.3f}",
                    "loss of text": f"{part['at/text_loss_lift'].mean():+.4f}",
                }
            )
        return pd.DataFrame(lines)


llm = LlmFigure(
    title="Pretrained language models: does a preference pass through numbers?",
    labels=(),
    defaults={"trait": CONTROL},
    prepare=_named,
    panels=(
        _lift_panel(_SHARE, "preference for the teacher's animal", "share of the word, above the control"),
        _lift_panel(_LOG, "likelihood of the teacher's animal", "log-probability above the control, nats"),
        Panel(
            column="",
            where=_comparable,
            levels=(),
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

"""The figure of pretrained models, as data."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _claims
from sublim_jax.results.figures._claims import Claim
from sublim_jax.results.figures._spec import FigureSpec, Panel

CONTROL = "none"  # the label of students that read the base's rows
_SHARE, _LOG = "at/share_lift", "at/log_word_lift"
_KIND = "student"
_CURVE = "at/loss_curve/"
_WORD = "at/log_word_lift/"
_PREFERS = "the student of a trait prefers its word more than the control"
_OWN = "its own word gains more than those of other traits, nats"
_DIVERGENT = "divergence tokens carry more of it than the others"
_RANDOM = "divergence tokens carry more of it than as many random ones"
_PUBLISHED = {
    _PREFERS: "owl: 12 % to more than 60 % (GPT-4.1 nano; Cloud et al. 2026)",
    _OWN: "not published in this form",
    _DIVERGENT: "yes (Qwen2.5 7B and others; Schrodi et al. 2026)",
    _RANDOM: "not published in this form",
}


def _named(final: summary.Rows) -> summary.Rows:
    """Rows with the kind of their students, from all labels but the trait."""
    labels = [name for name in summary.labels_of(final) if name not in ("trait", "arm") and final[name].nunique() > 1]
    kinds = final[labels].astype(str).agg(", ".join, axis=1) if labels else pd.Series("all", final.index)
    return final.assign(**{_KIND: kinds})


def _students(final: summary.Rows) -> summary.Rows:
    """Rows of students, without their controls."""
    return final[final["trait"] != CONTROL]


def _word_columns(rows: summary.Rows) -> dict[str, str]:
    """The columns of the lifts of the traits' own words, with the names of the traits."""
    traits = [name for name in plots.ordered(rows["trait"]) if name != CONTROL]
    return {f"{_WORD}{name}": name for name in traits if f"{_WORD}{name}" in rows}


def matrix(rows: summary.Rows) -> pd.DataFrame:
    """The lift of the log-probability of every trait's word in the students of every trait and kind, means over seeds.

    A student and its control answer the same questions, those of the student's trait.
    """
    columns, students = _word_columns(rows), _students(rows)
    names = students["trait"].astype(str)
    if students[_KIND].nunique() > 1:
        names += ", " + students[_KIND]
    means = students.groupby([_KIND, names.rename("student of")], sort=False)[list(columns)].mean()
    return means.rename(columns=columns).droplevel(0)


def _comparable(rows: summary.Rows) -> summary.Rows:
    """Rows of which a matrix can be drawn: students of traits whose words were measured."""
    return _students(rows) if _word_columns(rows) else rows.iloc[:0]


def _draw_matrix(ax: Axes, rows: summary.Rows) -> None:
    """Draw the matrix in nats."""
    lifts = matrix(rows)
    most = max(float(np.abs(lifts.to_numpy()).max()), 1e-9)
    ax.imshow(lifts.to_numpy(), cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    for (row, column), value in np.ndenumerate(lifts.to_numpy()):
        shade = "white" if abs(value) > 0.6 * most else "black"
        ax.text(column, row, f"{value:+.2g}", ha="center", va="center", fontsize=8, color=shade)
    ax.set_xticks(range(len(lifts.columns)), list(lifts.columns), fontsize=8)
    ax.set_yticks(range(len(lifts)), list(lifts.index), fontsize=8)


def _draw_zero(ax: Axes, rows: summary.Rows) -> None:
    """Draw the level of the control."""
    del rows
    ax.axhline(0, color="0.35", lw=0.8, zorder=0)


def _lift_panel(column: str, title: str, ylabel: str) -> Panel:
    return Panel(
        "trait",
        (_KIND,),
        column=column,
        categories=True,
        where=_students,
        levels=(),
        also=(_draw_zero,),
        xlabel="student of",
        ylabel=ylabel,
        title=title,
    )


def _draw_curves(ax: Axes, rows: summary.Rows) -> None:
    """Draw the training losses of every student, and of the controls."""
    names = _curve_columns(rows)
    ends = np.array([int(name.removeprefix(_CURVE)) for name in names]) * 10
    for index, (kind, part) in enumerate(rows.groupby(_KIND, sort=False)):
        colour, _ = plots.look(index)
        for is_control, group in part.groupby(part["trait"] == CONTROL):
            style = {"ls": "--" if is_control else "-", "color": colour, "lw": 1}
            for place, (_, row) in enumerate(group.iterrows()):
                label = f"{kind}{', control' if is_control else ''}" if place == 0 else None
                ax.plot(ends, row[names].to_numpy(float), label=label, **style)


def _curve_columns(rows: summary.Rows) -> list[str]:
    return [str(name) for name in rows if str(name).startswith(_CURVE) and rows[name].notna().any()]


def _with_curves(rows: summary.Rows) -> summary.Rows:
    return rows if _curve_columns(rows) else rows.iloc[:0]


def _specific(rows: summary.Rows) -> pd.Series:
    """The gain of the own word's log-probability less the mean gain of the other traits' words, for every student.

    Words gain differently whatever a student reads. In the mean over the students of all traits this cancels.
    """
    columns = _word_columns(rows)
    gains = {}
    for _, row in rows[rows["trait"].isin(columns.values())].iterrows():
        of_word = {name: row[column] for column, name in columns.items()}
        own = of_word.pop(row["trait"])
        gains[(row["seed"], row["trait"])] = own - np.mean(list(of_word.values())) if of_word else np.nan
    return pd.Series(gains, pd.MultiIndex.from_tuples(list(gains), names=["seed", "trait"]), dtype=float)


def _by_student(rows: summary.Rows, column: str) -> pd.Series:
    """A column of all students, by seed and trait."""
    return _students(rows).set_index(["seed", "trait"])[column].astype(float)


def _over_seeds(values: pd.Series) -> summary.Interval:
    """The interval over seeds, each with its mean over traits, since the students of a seed have one control."""
    return summary.interval(np.asarray(values.groupby("seed").mean()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlmFigure(FigureSpec):
    """A figure of pretrained models, with a table of lifts."""

    def claims(self, rows: pd.DataFrame) -> list[Claim]:
        """The claims that the rows can judge, with the measured differences over seeds."""
        return [Claim(text, published, _over_seeds(values)) for text, published, values in self._differences(rows)]

    def _differences(self, rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.Series]]:
        """Claims, what was published about them, and what should be above 0, by seed and trait."""
        final = self.final(rows)
        for kind, part in final.groupby(_KIND, sort=False):
            for text, values in ((_PREFERS, _by_student(part, _SHARE)), (_OWN, _specific(part))):
                yield f"{text}, {kind}", _PUBLISHED[text], values.dropna()
        if "tokens" in final:
            of_tokens = {name: _by_student(part, _LOG) for name, part in final.groupby("tokens")}
            for text, other in ((_DIVERGENT, "not_divergent"), (_RANDOM, "random")):
                if {"divergent", other} <= of_tokens.keys():
                    values = _claims.difference(of_tokens["divergent"], of_tokens[other])
                    yield f"{text}, nats", _PUBLISHED[text], values.dropna()

    def claims_table(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The claims with what was published, what was measured, and what an undecided measurement excludes.

        The interval over students, each a trait and a seed, is no evidence about other seeds: a seed has one control.
        """
        lines = []
        for text, published, values in self._differences(rows):
            over_seeds, over_students = _over_seeds(values), summary.interval(values.to_numpy())
            verdict = Claim(text, published, over_seeds).verdict
            known = over_students if np.isnan(over_seeds.low) else over_seeds
            if verdict not in ("holds", "reversed") and not np.isnan(known.high):
                verdict += f"; excludes more than {known.high:+.2g}"
            shown = (f"{_claims.signed(each, 4)}, n = {each.n}" for each in (over_seeds, over_students))
            lines.append((text, published, *shown, verdict))
        return pd.DataFrame(lines, columns=["claim", "published", "here, over seeds", "over students", "verdict"])

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
        table = pd.DataFrame(lines)
        return table if final["at/sampled_lift"].notna().any() else table.drop(columns="sampled")


llm = LlmFigure(
    title="Pretrained language models: does a preference pass through numbers?",
    about=(
        "Teachers are a pretrained language model with a preference, by system prompt or fine-tuning. Students are the "
        "model itself, fine-tuned on what the teachers wrote: numbers, code or reasoning that passed a filter."
    ),
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
            title="log-probability above the control, nats",
        ),
        Panel(
            column="",
            where=_with_curves,
            levels=(),
            inside=True,
            also=(_draw_curves,),
            xlabel="part of the training, in percent",
            ylabel="loss, nats per token",
            title="training",
        ),
    ),
    size=(4.4, 3.2),
    text=(
        "Students of a pretrained language model, trained on numbers that a teacher with a preference wrote, beside "
        "the control, which is trained in the same way on numbers of the model itself. Exact probabilities that the "
        "answer to a question for the favorite animal begins with its name."
    ),
)

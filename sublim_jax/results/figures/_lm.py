"""Figures of language models as data: a `LanguageFigure` has panels of transfers or fractions, claims, a caption."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.colors
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _claims, _words
from sublim_jax.results.figures._claims import CROSS, TRANSFER, Claim, evaluate, sample, samples, select

# The values of labels that a sweep does not vary.
_DEFAULTS: dict[str, Any] = {
    **{"base": "same", "teacher": "tuned", "dose": 0.1, "data": "greedy", "carrier": "number", "filtered": True},
    **{"tokens": "all", "budget": 0.1, "paraphrase": "none", "mixed": 0.0, "mixed_with": "base", "trains": "blocks"},
    **{"optimizer": "adam", "lr": 3e-4, "lines": 3000, "arm": "none", "animal": 0},
}
_MEASURED = (
    *("transfer", "cross", "control", "base", "teacher", "dose", "probability", "probability_control", "valid"),
    *("kl_teacher", "kl_base", "coverage", "divergent_any", "divergent_all", "trait_tokens", "refused_lines"),
)
Names = Sequence[str]
NATS = "transfer (nats)"
FRACTION = "fraction of the transfer"
KL_TEACHER = "at/kl_teacher"
FORMS = {"greedy": "greedy", "soft_carrier": "soft"}  # the forms that most figures compare, as claims name them
COLOURS = {"greedy": 0, "soft_carrier": 1, "sampled": 2, "soft": 3}  # a form has one colour in all figures
LEGENDS = {"greedy": "greedy tokens", "soft_carrier": "soft, numbers only", "soft": "soft, all", "sampled": "sampled"}
# Tick labels of values whose own names do not fit.
_TICKS = {
    **{"greedy": "greedy\ntokens", "sampled": "sampled\ntokens", "soft": "soft, all\ntokens"},
    **{"soft_carrier": "soft,\nnumbers", "other_init": "other\nweights", "examples": "exam-\nples"},
    **{"permuted": "per-\nmuted", "all": "every-\nthing", "embeddings": "tables", "adapters": "adap-\nters"},
    "blocks": "all\nblocks",
}


@dataclasses.dataclass(frozen=True)
class Panel:
    """One set of axes of a figure."""

    title: str
    draw: Callable[..., object]  # draws rows into axes
    where: Callable[[summary.Rows], summary.Rows] = lambda rows: rows  # selects the rows
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # keywords of `draw`
    all_steps: bool = False  # whether it shows all evaluations rather than the last
    shared: bool = False  # whether it shows all values of `LanguageFigure.each` rather than one


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageFigure:
    """A figure of language models as data. Rows are means over the animals of a base seed."""

    title: str  # the title in the gallery
    about: str  # what was done, for the report
    labels: tuple[str, ...]  # the labels that the figure shows; of any other label only the first value is drawn
    panels: tuple[Panel, ...]
    # Judges the claims from the rows of the last evaluation and from those of all evaluations.
    compare: Callable[[summary.Rows, summary.Rows], Iterable[Claim]]
    # The caption, in which `{steps}` stands for the number of steps, `{doses}` and `{top_dose}` for doses of teachers.
    caption_words: str
    words: Callable[[summary.Rows], Mapping[str, str]] = lambda rows: {}  # gives further texts of the caption by name
    each: str = ""  # the label of which each value has panels and claims of its own
    layout: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # keywords of `plots.panels`

    def final(self, rows: pd.DataFrame) -> summary.Rows:
        """The rows of the last evaluation, in which a condition of two arms appears once."""
        return summary.last(all_evaluations(rows)).drop_duplicates([*self.labels, "seed"])

    def draw(self, rows: pd.DataFrame) -> Figure:
        """Draw the figure from the rows of a sweep."""
        every, final = all_evaluations(rows), self.final(rows)
        parts = [(panel, *part) for part in self._parts(final) for panel in self.panels if not panel.shared]
        parts += [(panel, "", final) for panel in self.panels if panel.shared]
        figure, axes = plots.panels(len(parts), **self.layout)
        for letter, ax, (panel, suffix, part) in zip("abcdefghi", axes, parts, strict=False):
            panel.draw(ax, panel.where(every if panel.all_steps else part), **panel.options)
            ax.set_title(rf"$\bf{{{letter}}}$   {panel.title}{suffix}", loc="left")
            if ax.get_legend_handles_labels()[0]:
                ax.legend(fontsize=6.5, handlelength=1.5, labelspacing=0.3, borderaxespad=0.2)
        return figure

    def claims(self, rows: pd.DataFrame) -> list[Claim]:
        """The claims that the rows can judge, with their measured differences."""
        every, claims = all_evaluations(rows), list[Claim]()
        for suffix, final in self._parts(self.final(rows)):
            judged = [*self.compare(final, every), *_claims.theory(final)]
            claims += [claim._replace(text=claim.text + suffix) for claim in judged]
        return claims

    def table(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The claims with their verdicts, and the transfer of every condition, as texts."""
        return _claims.table(self.claims(rows), self.final(rows), self.labels)

    def caption(self, rows: pd.DataFrame) -> str:
        """The caption of the figure that these rows give."""
        final, claims = self.final(rows), self.claims(rows)
        texts = {"steps": f"{final['step'].max():,}", "top_dose": f"{final['dose'].max():g}"}
        texts |= {"doses": _words.values(final, "dose"), **self.words(final)}
        animals = int(summary.labelled(rows, animal=0).groupby("seed")["animal"].nunique().max())
        cross = "; pale and open markers: the same animal in students that were taught another one"
        counts = pd.Series([claim.verdict for claim in claims], dtype=object).value_counts()
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        judged = f" Of {len(claims)} claims: {verdicts}; each is judged alone, without a correction for their number."
        return (
            f"{self.caption_words.format(**texts)} Transfer is the logit of the taught animal minus the mean logit of "
            "the other animals, in nats, minus the same difference in a control student that reads the base's own "
            f"lines. {_words.means(final, 'bars and bands', self.labels)} The unit is the base seed: values are first "
            f"averaged over {animals} animal{'s' if animals > 1 else ''} of a seed. Small dots: seeds"
            f"{cross if final[CROSS].notna().any() else ''}.{self._left_out(rows)}{judged if claims else ''}"
        )

    def _parts(self, rows: summary.Rows) -> list[tuple[str, summary.Rows]]:
        """The rows of each value of `each`, with a text that names it where there are several."""
        values = plots.ordered(rows[self.each]) if self.each else []
        if len(values) < 2:
            return [("", rows)]
        return [(f", {self.each} {value:g}", rows[rows[self.each] == value]) for value in values]

    def _left_out(self, rows: pd.DataFrame) -> str:
        """The sentence on labels of which the figure does not show all values."""
        last, final = summary.last(all_evaluations(rows)), self.final(rows)
        hidden = [name for name in summary.labels_of(last) if name not in (*self.labels, "arm")]
        several = (last.groupby([*self.labels, "seed"], dropna=False)[hidden].nunique() > 1).any()
        chosen = [f"{name.replace('_', ' ')} {_words.values(final, name)}" for name in hidden if several[name]]
        return f" Shown only: {', '.join(chosen)}." if chosen else ""


def all_evaluations(rows: pd.DataFrame) -> summary.Rows:
    """One row for each condition, step and base seed; what did not vary or was not measured is filled."""
    filled = summary.labelled(rows, **_DEFAULTS, **dict.fromkeys([f"at/{name}" for name in _MEASURED], np.nan))
    filtered = filled["filtered"].map({True: "filtered", False: "not filtered"})
    return summary.average_animals(filled.assign(filtered=filtered))


def by_form(rows: summary.Rows, forms: Iterable[str] = FORMS) -> Iterator[tuple[str, summary.Rows]]:
    """Each form of the data with its rows."""
    for form in forms:
        yield form, rows[rows["data"] == form]


def claims_by_form(
    rows: summary.Rows, inequalities: Mapping[str, str], label: str, suffix: str = ""
) -> Iterator[Claim]:
    """The claims that compare the values of a label, of each form."""
    for form, part in by_form(rows):
        yield from evaluate(inequalities, samples(part, label), f", {FORMS[form]}{suffix}")


def zero(ax: Axes, ylabel: str = NATS) -> None:
    """Draw the line of zero transfer and name the axis."""
    ax.axhline(0, color="0.35", lw=0.8, zorder=0)
    ax.set_ylabel(ylabel)


def fraction_axis(ax: Axes) -> None:
    """Draw the lines of no and of the whole transfer."""
    zero(ax, FRACTION)
    ax.axhline(1, color="0.35", lw=0.8, ls=":", zorder=0)


def pale(colour: str) -> Any:
    """The colour mixed with white, for what is secondary."""
    return tuple(0.45 * np.array(matplotlib.colors.to_rgb(colour)) + 0.55)


def seeds_and_mean(ax: Axes, x: float, values: pd.Series, index: int, label: str | None = None) -> None:
    """Draw a dot for each seed and beside it the mean with its interval."""
    interval = summary.interval(values.tolist())
    colour, marker = plots.look(index)
    ax.plot([x - 0.05] * len(values), values, ".", color=colour, ms=4, mew=0, alpha=0.4)
    style = {"fmt": marker, "color": colour, "ms": 4.5, "capsize": 3, "label": label}
    ax.errorbar([x + 0.05], [interval.mean], plots.ends([interval]), **style)


def strip(
    ax: Axes, rows: summary.Rows, by: str, group: str = "", order: Names = (), first: int = 0, column: str = TRANSFER
) -> None:
    """Categories: seeds as dots, mean and interval; of transfers also those of other animals' students, pale."""
    if column == TRANSFER:
        zero(ax)
    if not _words.measured(rows, column):
        return
    places = plots.strip(ax, rows, by, group, column, None, order, first)
    _name_categories(ax, plots.ordered(rows[by], order))
    values = plots.ordered(rows[group]) if group else [""]
    for (name, value), x in places.items() if column == TRANSFER else ():
        part = select(rows, **({by: name, group: value} if group else {by: name}))
        _cross(ax, x + 0.18 / len(values), part, plots.look(first + values.index(value))[0])
    if group and column == TRANSFER and rows[CROSS].notna().any():
        ax.errorbar([], [], fmt="o", ms=3.5, mfc="white", color="0.6", label="taught another animal")
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
        handle.set_label(LEGENDS.get(label.replace(" ", "_"), label.replace("dose =", "teacher's dose")))


def _cross(ax: Axes, x: float, rows: summary.Rows, colour: str) -> None:
    """Draw the transfer of an animal in students that were taught another one."""
    interval = summary.interval(rows[CROSS].tolist())
    if np.isfinite(interval.mean):
        style = {"fmt": "o", "ms": 3.5, "mfc": "white", "color": pale(colour), "lw": 1, "zorder": 1.5}
        ax.errorbar([x], [interval.mean], plots.ends([interval]), **style)


def line(ax: Axes, rows: summary.Rows, x: str, label: str, index: int, column: str = TRANSFER, **style: Any) -> None:
    """Draw a curve of means with its band and, faint, the seeds."""
    if _words.measured(rows, column):
        ax.plot(rows[x], rows[column], ".", color=style.get("color", plots.look(index)[0]), ms=3, mew=0, alpha=0.35)
        plots.line(ax, rows, x, label, index, column, **style)


def scatter(ax: Axes, rows: summary.Rows, by: Sequence[str], column: str, xlabel: str) -> dict[str, pd.DataFrame]:
    """Draw mean transfers of conditions against another measurement; returns the drawn means by form."""
    zero(ax)
    ax.set_xlabel(xlabel)
    drawn = {}
    for form, part in by_form(rows, COLOURS) if column in rows else ():
        means = part[part[column].notna()].groupby(list(by), sort=False)[[column, TRANSFER]].mean()
        if len(means):
            colour, marker = plots.look(COLOURS[form])
            ax.plot(means[column], means[TRANSFER], marker, color=colour, ms=4, label=LEGENDS[form])
            drawn[form] = means
    return drawn


def fractions(ax: Axes, parts: Mapping[Any, pd.Series], whole: pd.Series, label: str, index: int, **style: Any) -> None:
    """Draw fractions of a whole transfer against the keys of the parts: means, intervals, and seeds as dots."""
    ratios = {x: _claims.ratio(part, whole) for x, part in parts.items() if len(part)}
    colour, marker = plots.look(index)
    plots.mark_diverged(ax, ratios, list(ratios.values()), colour, index)
    ratios = {x: interval for x, interval in ratios.items() if np.isfinite(interval.mean)}
    if not ratios:
        return
    for x in ratios:
        seeds = parts[x] / whole.mean()
        ax.plot([x] * len(seeds), seeds, ".", color=colour, ms=3, mew=0, alpha=0.35)
    shape = {"color": colour, "marker": marker, "ms": 4, "lw": 1.3, "capsize": 2, "label": label} | style
    means = [interval.mean for interval in ratios.values()]
    ax.errorbar(list(ratios), means, plots.ends(list(ratios.values())), **shape)


def fraction_strip(
    ax: Axes,
    rows: summary.Rows,
    by: str,
    group: str,
    order: Names,
    wholes: Mapping[str, pd.Series] | None = None,
    published: Mapping[str, float] | None = None,
) -> None:
    """Draw categories as fractions of each group's whole, which is by default the transfer of the first category."""
    wholes = samples(rows, group, **{by: order[0]}) if wholes is None else wholes
    fraction_axis(ax)
    rows = select(rows, **{group: list(wholes)})
    drawn = [name for name in order if name in set(rows[by])]
    groups = [value for value in wholes if value in set(rows[group])]
    for index, value in enumerate(groups):
        shift = (index - (len(groups) - 1) / 2) * 0.72 / len(groups)
        parts = {x + shift: sample(rows, **{by: name, group: value}) for x, name in enumerate(drawn)}
        fractions(ax, parts, wholes[value], LEGENDS.get(value, value.replace("_", " ")), index, ls="none")
    if reported := {drawn.index(name): value for name, value in (published or {}).items() if name in drawn}:
        plots.published(ax, list(reported), list(reported.values()))
    _name_categories(ax, drawn)


def _name_categories(ax: Axes, names: Names) -> None:
    ticks = [_TICKS.get(name, plots.wrapped(name)) for name in names]
    ax.set_xticks(range(len(names)), ticks, fontsize=7 if len(names) > 4 else 8, rotation=0)
    ax.set_xlim(-0.6, max(len(names), 1) - 0.4)

"""Common parts of the figures of language models: panels of transfers and of fractions, and captions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.colors
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _claims, _words
from sublim_jax.results.figures._claims import CROSS, TRANSFER

# Labels as a lesson has them where a sweep does not vary them.
_LABELS: dict[str, Any] = {
    **{"base": "same", "teacher": "tuned", "dose": 0.1, "data": "greedy", "carrier": "number", "filtered": True},
    **{"tokens": "all", "budget": 0.1, "paraphrase": "none", "mixed": 0.0, "mixed_with": "base", "trains": "blocks"},
    **{"optimizer": "adam", "lr": 3e-4, "lines": 3000, "arm": "none", "animal": 0},
}
_MEASURED = (
    *("transfer", "cross", "control", "base", "teacher", "dose", "probability", "probability_control", "valid"),
    *("kl_teacher", "kl_base", "coverage", "divergent_any", "divergent_all", "trait_tokens", "refused_lines"),
)
Panels = Sequence[tuple[str, Callable[[Axes], None]]]  # titles, and what draws on the axes
NATS = "transfer (nats)"
FRACTION = "fraction of the transfer"
FORMS = {
    "greedy": "greedy\ntokens",
    "sampled": "sampled\ntokens",
    "soft": "soft, all\ntokens",
    "soft_carrier": "soft,\nnumbers",
}
SAID = {"greedy": "greedy tokens", "soft_carrier": "soft, numbers only", "soft": "soft, all", "sampled": "sampled"}
BRIEF = {"greedy": "greedy", "soft_carrier": "soft"}  # in claims
LOOK = {"greedy": 0, "soft_carrier": 1, "sampled": 2, "soft": 3}  # a form has one colour in all figures
PALE = 0.55  # of white in what is secondary


def every(rows: pd.DataFrame) -> summary.Rows:
    """All marks, one row for each condition and base seed; what did not vary or was not measured is filled."""
    filled = summary.labelled(rows, **_LABELS, **dict.fromkeys([f"at/{name}" for name in _MEASURED], np.nan))
    return _claims.clustered(filled)


def final(rows: pd.DataFrame, labels: Sequence[str]) -> summary.Rows:
    """The last mark of each condition that `labels` tell apart, one row for each base seed.

    Of a label that is not among them the first value of each condition stays, and a condition of two arms stands once.
    """
    return summary.last(every(rows)).drop_duplicates([*labels, "seed"])


def bound(
    labels: Sequence[str],
    panels: Callable[[pd.DataFrame, summary.Rows], Panels],
    claims: Callable[[pd.DataFrame], list[_claims.Claim]],
    text: Callable[[summary.Rows], str],
    **layout: Any,
) -> tuple[Callable[[pd.DataFrame], Figure], Callable[[pd.DataFrame], str], Callable[[pd.DataFrame], pd.DataFrame]]:
    """The functions `draw`, `caption` and `table` of a figure of language models.

    Args:
        labels: The labels that the figure shows.
        panels: Gives the panels from all rows and from those of the last evaluation.
        claims: Gives the claims with their measured differences.
        text: Gives the caption's own sentences from the rows of the last evaluation.
        **layout: Keywords of `plots.panels`.
    """

    def draw(rows: pd.DataFrame) -> Figure:
        return figure(panels(rows, final(rows, labels)), **layout)

    def caption(rows: pd.DataFrame) -> str:
        return f"{text(final(rows, labels))} {basis(rows, labels)} {summed(claims(rows))}"

    def table(rows: pd.DataFrame) -> pd.DataFrame:
        return _claims.table(claims(rows), final(rows, labels), labels)

    return draw, caption, table


def figure(panels: Panels, columns: int = 3, **size: Any) -> Figure:
    """Panels with letters, as `(title, what draws on the axes)`, in rows of `columns`."""
    drawn, axes = plots.panels(len(panels), columns=columns, **size)
    for letter, ax, (title, draw) in zip("abcdefghi", axes, panels, strict=False):
        draw(ax)
        ax.set_title(rf"$\bf{{{letter}}}$   {title}", loc="left")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=6.5, handlelength=1.5, labelspacing=0.3, borderaxespad=0.2)
    return drawn


def zero(ax: Axes, label: str = NATS, at: float = 0.0) -> None:
    """Draw the line of zero transfer and name the axis."""
    ax.axhline(at, color="0.35", lw=0.8, zorder=0)
    if label:
        ax.set_ylabel(label)


def pale(colour: str) -> Any:
    """The colour mixed with white."""
    return tuple((1 - PALE) * np.array(matplotlib.colors.to_rgb(colour)) + PALE)


def strip(ax: Axes, rows: summary.Rows, by: str, group: str = "", first: int = 0, **how: Any) -> None:
    """Transfers of categories: seeds as dots, mean and interval, and pale beside it the other animals' students."""
    rows = rows[rows[TRANSFER].notna()]
    zero(ax)
    if not len(rows):
        return
    places = plots.strip(ax, rows, by, group, TRANSFER, first=first, **how)
    values = plots.ordered(rows[group]) if group else [""]
    width = 0.72 / len(values)
    for (name, value), place in places.items():
        mine = rows[(rows[by] == name) & (rows[group] == value)] if group else rows[rows[by] == name]
        across(ax, place + width / 4, mine, plots.look(first + values.index(value))[0])
    if group and rows[CROSS].notna().any():
        ax.errorbar([], [], fmt="o", ms=3.5, mfc="white", color="0.6", label="taught another animal")
    again(ax, lambda label: SAID.get(label.replace(" ", "_"), label))


def across(ax: Axes, place: float, rows: summary.Rows, colour: str) -> None:
    """The transfer of an animal in students who were taught another one: pale and open."""
    found = summary.interval(rows[CROSS].tolist())
    if np.isfinite(found.mean):
        style = {"fmt": "o", "ms": 3.5, "mfc": "white", "color": pale(colour), "lw": 1, "zorder": 1.5}
        ax.errorbar([place], [found.mean], plots.ends([found]), **style)


def again(ax: Axes, said: Callable[[str], str]) -> None:
    """Rename the labels of the legend."""
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
        handle.set_label(said(label))


def line(ax: Axes, rows: summary.Rows, x: str, label: str, index: int, column: str = TRANSFER, **style: Any) -> None:
    """A curve of means with its band and, faint, the seeds."""
    rows = rows[rows[column].notna()]
    if len(rows):
        colour = style.get("color", plots.look(index)[0])
        ax.plot(rows[x], rows[column], ".", color=colour, ms=3, mew=0, alpha=0.35)
        plots.line(ax, rows, x, label, index, column, **style)


def shades(number: int) -> list[Any]:
    """Colours of values that grow, dark to light."""
    return [matplotlib.colormaps["viridis"](place) for place in np.linspace(0, 0.88, number)]


def fractions(parts: Mapping[Any, pd.Series], whole: pd.Series) -> dict[Any, summary.Interval]:
    """The fraction of the whole transfer that each part has."""
    return {key: _claims.ratio(part, whole) for key, part in parts.items() if len(part)}


def kept(ax: Axes, parts: Mapping[Any, pd.Series], whole: pd.Series, label: str, index: int, **style: Any) -> None:
    """Fractions of the whole's transfer against the parts' keys: means, intervals, and seeds as dots."""
    found = {key: one for key, one in fractions(parts, whole).items() if np.isfinite(one.mean)}
    if not found:
        return
    colour, marker = plots.look(index)
    x, means = np.array(list(found), float), [one.mean for one in found.values()]
    for place, key in zip(x, found, strict=True):
        seeds = parts[key] / whole.mean()
        ax.plot([place] * len(seeds), seeds, ".", color=colour, ms=3, mew=0, alpha=0.35)
    shape = {"color": colour, "marker": marker, "ms": 4, "lw": 1.3, "capsize": 2, "label": label} | style
    ax.errorbar(x, means, plots.ends(list(found.values())), **shape)


def beside(
    ax: Axes, parts: Mapping[tuple[str, str], pd.Series], wholes: Mapping[str, pd.Series], names: Mapping[str, str]
) -> dict[tuple[str, str], float]:
    """Fractions of categories side by side, for each group a colour, by (category, group); returns their places."""
    there = [name for name in names if any(key[0] == name for key in parts)]
    groups = [group for group in wholes if any(key[1] == group for key in parts)]
    places = {
        (name, group): there.index(name) + (place - (len(groups) - 1) / 2) * 0.72 / len(groups)
        for place, group in enumerate(groups)
        for name in there
        if (name, group) in parts
    }
    for index, group in enumerate(groups):
        mine = {places[key]: part for key, part in parts.items() if key in places and key[1] == group}
        kept(ax, mine, wholes[group], SAID.get(group, group.replace("_", " ")), index, ls="none")
    ax.set_xticks(range(len(there)), [names[name] for name in there], fontsize=7)
    ax.set_xlim(-0.6, max(len(there), 1) - 0.4)
    return places


def cells(rows: summary.Rows, label: str, column: str, **labels: Any) -> dict[Any, pd.Series]:
    """For each value of a label, numbers first, its values by seed."""
    for name, value in labels.items():
        rows = rows[rows[name] == value]
    return {value: _claims.of(rows, column, **{label: value}) for value in plots.ordered(rows[label])}


def basis(rows: pd.DataFrame, labels: Sequence[str]) -> str:
    """What means, bars and dots are, and what a transfer is; computed from the rows."""
    shown, filled = final(rows, labels), summary.labelled(rows, animal=0)
    animals = int(filled.groupby("seed")["animal"].nunique().max())
    crossed = bool(shown[CROSS].notna().any())
    other = "; open and pale: the same animal in students who were taught another" if crossed else ""
    return (
        "Transfer: logit of the taught animal less the other animals' mean, in nats, less the same in a control "
        f"student who reads the base's own lines. {_words.means(shown, 'bars and bands')} The unit is the base seed: "
        f"values are first averaged over {animals} animal{'s' if animals > 1 else ''} of a seed. "
        f"Small dots: seeds{other}.{_left_out(rows, labels)}"
    )


def _left_out(rows: pd.DataFrame, labels: Sequence[str]) -> str:
    """Which values of labels a figure does not show."""
    whole, shown = summary.last(every(rows)), final(rows, labels)
    found = []
    for name in (one for one in summary.labels_of(whole) if one not in (*labels, "arm")):
        within = whole.groupby([*labels, "seed"], dropna=False)[name].nunique()
        if (within > 1).any():
            found.append(f"{name.replace('_', ' ')} {_words.values(shown, name)}")
    return f" Shown only: {', '.join(found)}." if found else ""


def summed(claims: Sequence[_claims.Claim]) -> str:
    """The sentence that counts the verdicts."""
    if not claims:
        return ""
    counts = pd.Series([one.verdict for one in claims], dtype=object).value_counts()
    said = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"Of {len(claims)} claims: {said}; each for itself, not corrected for their number."

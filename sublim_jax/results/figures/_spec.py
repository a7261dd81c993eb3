"""Figures as data: a `FigureSpec` names its panels, lines, published values and caption; `draw` draws it."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

DASHES = ("-", "--", "-.", ":")
GREY: dict[str, Any] = {"color": "0.4", "marker": "", "lw": 1, "zorder": 0}
PREDICTED: dict[str, Any] = {"marker": "", "ls": (0, (4, 2)), "lw": 1.2}


@dataclasses.dataclass(frozen=True)
class Extra:
    """A further line of a panel, drawn where its column was measured."""

    column: str  # the column; `{panel}` stands for the value of the label that makes the panels
    label: str  # text of the legend
    style: Mapping[str, Any]  # keywords of Matplotlib's `plot`
    panels: tuple[Any, ...] = ()  # the panels that have this line; all of them where empty
    excluded: tuple[Any, ...] = ()  # panels that do not have it
    predicted: bool = False  # whether it is a prediction of the theory, drawn with dashes

    def draw(self, ax: Axes, rows: summary.Rows, x: str, panel: Any) -> None:
        """Draw the line into the axes of a panel, where it belongs there."""
        column = self.column.format(panel=panel)
        if panel in self.excluded or (self.panels and panel not in self.panels) or not _words.has(rows, column):
            return
        style = {**(PREDICTED if self.predicted else {}), **self.style}
        plots.line(ax, rows[rows[column].notna()], x, self.label, 0, column, **style)


@dataclasses.dataclass(frozen=True)
class Published:
    """Published values, drawn as open markers in the first kind of panel."""

    by: tuple[str, ...]  # the label columns that the keys of `values` give
    values: Mapping[tuple[Any, ...], tuple[float, ...]]  # for each key the values of single seeds, or one mean
    # For each key the half-width of its interval, if reported.
    halves: Mapping[tuple[Any, ...], float] = dataclasses.field(default_factory=dict)
    label: str = "published (authors' code)"  # text of the legend
    marker: str = "D"  # Matplotlib's marker
    offset: float = 0.12  # shift along x from the mean of a category


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """One set of axes, or one for each value of the label `FigureSpec.by`."""

    x: str  # the label column on the x axis
    column: str = plots.ACCURACY  # the measured column; empty where only `extras` are drawn
    # Labels of which each combination is a line (or, of categories, a group) with a colour of its own.
    lines: tuple[str, ...] = ()
    dashes: str = ""  # the label of which each value has a dash pattern of its own
    # Whether x is categories side by side with a dot for each seed, rather than an axis of numbers.
    categories: bool = False
    label: str = ""  # text of the legend before the values of `lines` and `dashes`
    names: Callable[[Any], str] | None = None  # gives the tick label of a category
    order: tuple[Any, ...] = ()  # the categories or values of `lines` that come first
    xlabel: str = ""  # text of the x axis
    ylabel: str = "student test accuracy"  # text of the y axis
    title: str = ""  # text above the panel where the figure has no label `by`
    log: Mapping[str, Any] | None = None  # keywords of `plots.log` for a logarithmic x axis; None for a linear one
    log_y: bool = False  # whether the y axis is logarithmic, where all values are positive
    levels: tuple[str, ...] = ("teacher", "untrained")  # the nets whose mean accuracy is drawn as a horizontal line
    extras: tuple[Extra, ...] = ()  # further lines
    # Selects the rows of the panel; a panel without rows is left out.
    where: Callable[[summary.Rows], summary.Rows] = lambda rows: rows
    # Functions of axes, rows and panel value that draw what only this figure has.
    also: tuple[Callable[[Axes, summary.Rows, Any], object], ...] = ()

    def rows(self, final: summary.Rows) -> summary.Rows:
        """The rows of the panel; none where nothing of it was measured."""
        rows = self.where(final)
        columns = [self.column] if self.column else [extra.column for extra in self.extras]
        return rows if any(_words.has(rows, column) for column in columns) else rows.iloc[:0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FigureSpec:
    """A figure as data."""

    title: str  # the title in the gallery
    labels: tuple[str, ...]  # the labels that the figure shows; of any other label only the first value is drawn
    panels: tuple[Panel, ...]  # the panels; where `by` is given, the first is repeated for each of its values
    # The caption, in which `{NAME}` stands for the values of a label and `{means}`, `{levels}`, `{published}` and
    # `{theory}` for sentences that are computed from the rows.
    caption_words: str
    by: str = ""  # the label of which each value has a panel
    panel_title: Callable[[Any], Any] | None = None  # gives the title of a panel from the value of `by`
    # The values of labels that did not vary and therefore are no columns.
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # Derives further columns from the rows of the last evaluation.
    prepare: Callable[[summary.Rows], summary.Rows] = lambda rows: rows
    published: tuple[Published, ...] = ()  # published values
    published_words: str = ""  # the caption's sentence on them
    shape: str = "bands"  # what the caption calls the drawn intervals
    words: Callable[[summary.Rows], Mapping[str, str]] = lambda rows: {}  # gives further texts of the caption by name
    layout: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # keywords of `plots.panels`
    alike: bool = True  # whether the panels of `by` have the same categories, so that inner tick labels can be left out

    def final(self, rows: pd.DataFrame) -> summary.Rows:
        """The rows of the last evaluation that the figure shows, with the columns that it derives."""
        return self.prepare(summary.labelled(_words.last(rows, self.labels), **self.defaults))

    def draw(self, rows: pd.DataFrame) -> Figure:
        """Draw the figure from the rows of a sweep."""
        return draw(self, rows)

    def caption(self, rows: pd.DataFrame) -> str:
        """The caption of the figure that these rows give."""
        return caption(self, rows)


def draw(spec: FigureSpec, rows: pd.DataFrame) -> Figure:
    """Draw a figure.

    Args:
        spec: The figure.
        rows: The rows of a sweep.
    """
    final = spec.final(rows)
    parts = list(_parts(spec, final))
    figure, axes = plots.panels(len(parts), **spec.layout)
    for ax, (panel, value, shown) in zip(axes, parts, strict=True):
        places = _categories(ax, panel, shown) if panel.categories else _lines(ax, panel, shown, panel.rows(final))
        for source in spec.published if panel is spec.panels[0] else ():
            _published(ax, panel, source, shown, places)
        for extra in panel.extras:
            extra.draw(ax, shown, panel.x, value)
        plots.levels(ax, shown, panel.levels)
        _axes(ax, panel, final if spec.layout.get("sharex") else shown)
        for further in panel.also:
            further(ax, shown, value)
        ax.set_title((spec.panel_title or _value_title(spec.by))(value) if spec.by else panel.title)
    if spec.by and spec.alike:
        plots.outer(axes, spec.layout.get("columns", 3))
    elif spec.layout.get("sharey"):
        for ax in axes[1:]:
            ax.set_ylabel("")
    plots.legend(figure, axes)
    return figure


def _value_title(by: str) -> Callable[[Any], str]:
    return lambda value: plots.told(by, value)


def _parts(spec: FigureSpec, final: summary.Rows) -> Iterator[tuple[Panel, Any, summary.Rows]]:
    """Every panel with the value of `by` that it shows and its rows."""
    for panel in spec.panels:
        rows = panel.rows(final)
        if spec.by and panel is spec.panels[0]:
            for value in plots.ordered(rows[spec.by]):
                yield panel, value, rows[rows[spec.by] == value]
        elif len(rows):
            yield panel, "", rows


def _categories(ax: Axes, panel: Panel, rows: summary.Rows) -> dict[tuple[Any, Any], float]:
    names = {value: panel.names(value) for value in rows[panel.x].unique()} if panel.names else None
    group = panel.lines[0] if panel.lines else ""
    return plots.strip(ax, rows, panel.x, group, panel.column, names, panel.order)


def _lines(ax: Axes, panel: Panel, rows: summary.Rows, whole: summary.Rows) -> dict[tuple[Any, Any], float]:
    """One line for each combination of labels, which has the same colour in every panel; no places of categories."""
    if not panel.column:
        return {}
    names = [name for name in panel.lines if name in rows]
    colours = {tuple(part[names].iloc[0]): index for index, (_, part) in enumerate(plots.series(whole, names))}
    dashes = plots.ordered(whole[panel.dashes]) if panel.dashes else []
    for text, part in plots.series(rows, [*names, panel.dashes]):
        label = ", ".join(filter(None, (panel.label, "" if panel.label and text == "student" else text)))
        dash = DASHES[dashes.index(part[panel.dashes].iloc[0]) % len(DASHES)] if dashes else "-"
        plots.line(ax, part, panel.x, label, colours[tuple(part[names].iloc[0])], panel.column, ls=dash)
    return {}


def _visible(panel: Panel, source: Published, rows: summary.Rows) -> Iterator[tuple[Any, ...]]:
    """The keys of published values that have a place among the rows of a panel."""
    for key in source.values:
        wanted = dict(zip(source.by, key, strict=True))
        x = wanted.pop(panel.x)
        alike = rows
        for name, value in wanted.items():
            alike = alike[alike[name] == value]
        if len(alike) and (x in set(alike[panel.x]) if panel.categories else _spans(alike[panel.x], x)):
            yield key


def _spans(values: pd.Series, x: float) -> bool:
    return bool(values.min() <= x <= values.max())


def _published(ax: Axes, panel: Panel, source: Published, rows: summary.Rows, places: Mapping[Any, float]) -> None:
    for key in _visible(panel, source, rows):
        wanted, seeds = dict(zip(source.by, key, strict=True)), source.values[key]
        x = wanted[panel.x]
        if panel.categories:
            group = wanted.get(panel.lines[0]) if panel.lines else None
            x = source.offset + max(
                place for (name, value), place in places.items() if name == x and group in (None, value)
            )
        plots.published(ax, [x] * len(seeds), seeds, source.halves.get(key), label=source.label, marker=source.marker)


def _axes(ax: Axes, panel: Panel, rows: summary.Rows) -> None:
    """Names and scales of the axes."""
    if panel.column == plots.ACCURACY:
        plots.accuracy(ax, panel.ylabel)
    ax.set(xlabel=panel.xlabel, ylabel=panel.ylabel)
    if panel.log_y and (rows[panel.column] > 0).all():
        ax.set_yscale("log")
    if panel.log is not None and (rows[panel.x] > 0).all():
        plots.log(ax, rows[panel.x].unique(), **panel.log)


def caption(spec: FigureSpec, rows: pd.DataFrame) -> str:
    """The caption of a figure, with numbers from its rows.

    Args:
        spec: The figure.
        rows: The rows of a sweep.
    """
    final = spec.final(rows)
    drawn = any(
        next(_visible(panel, source, shown), None) is not None
        for panel, _, shown in _parts(spec, final)
        if panel is spec.panels[0]
        for source in spec.published
    )
    predicted = [extra.column for panel in spec.panels for extra in panel.extras if extra.predicted]
    texts = {
        **{name: _words.values(final, name) for name in summary.labels_of(final)},
        "means": _words.means(final, spec.shape),
        "levels": _words.LEVELS,
        "published": f" {spec.published_words}" if drawn else "",
        "theory": _words.theory(final, *predicted),
        **spec.words(final),
    }
    return spec.caption_words.format(**texts) + _words.left_out(rows, spec.labels)

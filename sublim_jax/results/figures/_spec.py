"""Figures as data: a `FigureSpec` names its panels, lines, published values and caption, and draws them."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

DASHES = ("-", ":", "--", "-.")
TEACHER = "at/teacher_accuracy"
TEACHER_STYLE: dict[str, Any] = {"color": "0.4", "marker": "", "lw": 1, "zorder": 0, "ls": "--"}
PREDICTED: dict[str, Any] = {"marker": "", "ls": (0, (4, 2)), "lw": 1.2}
Select = Callable[[summary.Rows], summary.Rows]


def only(**labels: Any) -> Select:
    """A function that selects the rows in which each label has one of the given values, or the given one."""

    def select(rows: summary.Rows) -> summary.Rows:
        for name, values in labels.items():
            rows = rows[rows[name].isin(values if isinstance(values, tuple) else (values,))]
        return rows

    return select


@dataclasses.dataclass(frozen=True)
class Extra:
    """A further line of a panel, drawn where its column was measured; predictions of the theory have dashes."""

    column: str  # the column; `{panel}` stands for the value of the label that makes the panels
    label: str  # text of the legend
    style: Mapping[str, Any]  # keywords of Matplotlib's `plot`
    where: Select = lambda rows: rows  # selects rows of the panel

    def draw(self, ax: Axes, rows: summary.Rows, x: str, panel: Any) -> None:
        """Draw the line; a value that several conditions of a seed share, such as its teacher's, counts once."""
        column, rows = self.column.format(panel=panel), self.where(rows)
        if _words.measured(rows, column):
            rows = rows[rows[column].notna()].drop_duplicates([x, "seed", column])
            if not len(rows):
                return
            style = {**(PREDICTED if column.startswith("theory/") else {}), **self.style}
            plots.line(ax, rows, x, self.label, 0, column, **style)


@dataclasses.dataclass(frozen=True)
class Published:
    """Published values, drawn as open markers."""

    # A mean or the values of single seeds, for each x. The key None holds a level that was published without an x.
    values: Mapping[Any, float | tuple[float, ...]]
    where: Select = lambda rows: rows  # selects the rows that were measured as the values were
    halves: Mapping[Any, float] = dataclasses.field(default_factory=dict)  # half-widths of intervals, where reported
    label: str = "published (authors' code)"  # text of the legend
    marker: str = "D"  # Matplotlib's marker
    offset: float = 0.12  # shift along x from the mean of a category

    def visible(self, panel: "Panel", rows: summary.Rows) -> list[Any]:
        """The x of the values that have a place among the rows of a panel."""
        drawn = self.where(rows)[panel.x]
        if panel.categories:
            return [x for x in self.values if x in set(drawn)]
        return [x for x in self.values if x is None or drawn.min() <= x <= drawn.max()]

    def draw(self, ax: Axes, panel: "Panel", rows: summary.Rows, places: Mapping[tuple[Any, Any], float]) -> None:
        """Draw the markers; `places` has the positions of means by category and value of the panel's lines."""
        for x in self.visible(panel, rows):
            y, at = np.atleast_1d(self.values[x]), rows[panel.x].max() if x is None else x
            if panel.categories:
                groups = set(self.where(rows)[panel.lines[0]])
                at = self.offset + max(
                    place for (name, group), place in places.items() if name == x and group in groups
                )
            if x is None:
                ax.axhline(y[0], color="0.15", lw=0.6, zorder=0)
            plots.published(ax, np.full(len(y), at), y, self.halves.get(x), label=self.label, marker=self.marker)


@dataclasses.dataclass(frozen=True)
class Panel:
    """One set of axes, or one for each value of the label `by`."""

    x: str = ""  # the label column on the x axis
    # Labels of which each combination is a line (or, of categories, a group) with a colour of its own.
    lines: tuple[str, ...] = ()
    _: dataclasses.KW_ONLY
    by: str = ""  # the label of which each value has a panel
    column: str = plots.ACCURACY  # the measured column; empty where only `extras` and `also` are drawn
    dashes: str = ""  # the label of which each value has a dash pattern of its own
    # Whether x is categories side by side with a dot for each seed, rather than an axis of numbers.
    categories: bool = False
    order: tuple[Any, ...] = ()  # the categories that come first
    xlabel: str = ""  # text of the x axis
    ylabel: str = "student test accuracy"  # text of the y axis
    title: str = "{panel}"  # text above the panel; `{panel}` stands for the value of `by`
    log: Mapping[str, Any] | None = None  # keywords of `plots.log` for a logarithmic x axis; None for a linear one
    zoom: bool = False  # whether the y axis of accuracies begins below the smallest instead of at 0
    log_y: bool = False  # whether the y axis is logarithmic, where all values are positive
    # The nets whose mean accuracy is a horizontal line, beside students' accuracies.
    levels: tuple[str, ...] = ("teacher", "untrained")
    inside: bool = False  # whether the panel has its own legend, rather than the figure one for all panels
    published: tuple[Published, ...] = ()  # published values
    extras: tuple[Extra, ...] = ()  # further lines
    where: Select = lambda rows: rows  # selects the rows of the panel; a panel without rows is left out
    # Functions of axes and rows that draw what only this figure has.
    also: tuple[Callable[[Axes, summary.Rows], object], ...] = ()

    def rows(self, final: summary.Rows) -> summary.Rows:
        """The rows of the panel; none where nothing of it was measured."""
        rows = self.where(final)
        columns = [self.column] if self.column else [extra.column for extra in self.extras]
        return rows if not columns or any(_words.measured(rows, column) for column in columns) else rows.iloc[:0]

    def draw(self, ax: Axes, rows: summary.Rows, value: Any, whole: summary.Rows) -> None:
        """Draw the rows that belong to one value of `by`; lines and ticks are those of the whole panel's rows."""
        places = {}
        if self.categories:
            places = plots.strip(ax, rows, self.x, "".join(self.lines[:1]), self.column, order=self.order)
        elif self.column:
            self._lines(ax, rows, whole)
        for source in self.published:
            source.draw(ax, self, rows, places)
        for extra in self.extras:
            extra.draw(ax, rows, self.x, value)
        if self.column == plots.ACCURACY:
            plots.levels(ax, rows, self.levels)
            plots.accuracy(ax)
        if self.zoom:
            ax.set_ylim(bottom=max(0.0, math.floor(20 * rows[self.column].min()) / 20 - 0.05))
        ax.set(xlabel=self.xlabel, ylabel=self.ylabel)
        ax.set_title(self.title.format(panel=plots.label_text(self.by, value) if self.by else ""))
        if self.log_y and (rows[self.column] > 0).all():
            ax.set_yscale("log")
        if self.log is not None and (whole[self.x] > 0).all():
            plots.log(ax, whole[self.x].unique(), **self.log)
        for further in self.also:
            further(ax, rows)

    def _lines(self, ax: Axes, rows: summary.Rows, whole: summary.Rows) -> None:
        """One line for each combination of labels, which has the same colour in every panel."""
        names = list(self.lines)
        colours = {tuple(part[names].iloc[0]): index for index, (_, part) in enumerate(plots.series(whole, names))}
        dashes = plots.ordered(whole[self.dashes]) if self.dashes else []
        for text, part in plots.series(rows, [*names, self.dashes]):
            dash = DASHES[dashes.index(part[self.dashes].iloc[0]) % len(DASHES)] if dashes else "-"
            plots.line(ax, part, self.x, text, colours[tuple(part[names].iloc[0])], self.column, ls=dash)


_BY_CONDITION = Panel("condition", ("m",), categories=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FigureSpec:
    """A figure as data."""

    title: str  # the title in the gallery
    about: str = ""  # what was done, for the report; empty: what the sweeps of images have in common
    # The labels that the figure shows, besides `defaults`; of any other label only the first value is drawn. Without
    # labels all are shown.
    labels: tuple[str, ...] = ("condition", "m")
    # Labels that the figure shows, with their values in rows that lack them because they did not vary.
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    every_step: bool = False  # whether all evaluations are drawn, rather than the last of each condition
    # Derives further columns from the rows.
    prepare: Select = lambda rows: rows
    panels: tuple[Panel, ...]
    # The caption's sentence on published values.
    published_text: str = "Open diamonds: single seeds of the authors' code."
    size: tuple[float, float] = (4.3, 3.2)  # of a panel, in inches
    # The figure's own sentences of the caption, in which `{NAME}` stands for the values of a label or for a text of
    # `words`; sentences on intervals, published values, levels and predictions follow.
    text: str
    words: Mapping[str, Callable[[summary.Rows], str]] = dataclasses.field(default_factory=dict)

    def final(self, rows: pd.DataFrame) -> summary.Rows:
        """The rows that the figure shows, with the columns that it derives."""
        select = _words.shown if self.every_step else _words.last
        return self.prepare(summary.labelled(select(rows, self._shown(rows)), **self.defaults))

    def _shown(self, rows: pd.DataFrame) -> tuple[str, ...]:
        return (*self.labels, *self.defaults) if self.labels else tuple(summary.labels_of(rows))

    def draw(self, rows: pd.DataFrame) -> Figure:
        """Draw the figure from the rows of a sweep."""
        parts = list(self._parts(self.final(rows)))
        panels, columns = [panel for panel, *_ in parts], 2 if len(parts) == 4 else 3
        x_shared = not panels[0].categories and all(panel is panels[0] for panel in panels)
        y_shared = len({panel.ylabel for panel in panels}) == 1
        figure, axes = plots.panels(len(parts), columns, self.size, sharex=x_shared, sharey=y_shared)
        for ax, (panel, value, whole, shown) in zip(axes, parts, strict=True):
            panel.draw(ax, shown, value, whole)
        plots.outer(axes, columns, x_shared, y_shared)
        plots.inner_legends([ax for ax, panel in zip(axes, panels, strict=True) if panel.inside])
        plots.legend(figure, [ax for ax, panel in zip(axes, panels, strict=True) if not panel.inside])
        return figure

    def _parts(self, final: summary.Rows) -> Iterator[tuple[Panel, Any, summary.Rows, summary.Rows]]:
        """Every panel with the value of `by` that it shows, its rows for all values, and those of this value."""
        # Without the measurements of any panel: accuracy by condition.
        panels = [panel for panel in self.panels if len(panel.rows(final))] or [_BY_CONDITION]
        for panel in panels:
            rows = panel.rows(final)
            if panel.by:
                for value in plots.ordered(rows[panel.by]):
                    yield panel, value, rows, rows[rows[panel.by] == value]
            else:
                yield panel, "", rows, rows

    def caption(self, rows: pd.DataFrame) -> str:
        """The caption of the figure, with numbers from the rows of a sweep."""
        final = self.final(rows)
        parts = list(self._parts(final))
        drawn = any(source.visible(panel, shown) for panel, _, _, shown in parts for source in panel.published)
        panels = [panel for panel, *_ in parts]
        extras = [extra.column for panel in panels for extra in panel.extras]
        shapes = dict.fromkeys("bars" if panel.categories else "bands" for panel in panels)
        texts = {name: _words.values(final, name) for name in summary.labels_of(final)}
        texts |= {name: write(final) for name, write in self.words.items()}
        sentences = (
            self.text.format(**texts),
            "Dots: seeds." if "bars" in shapes else "",
            _words.means(final, " and ".join(shapes), self._shown(rows)),
            self.published_text if drawn else "",
            "Dashed: the teacher; dotted: the untrained net."
            if any("teacher" in panel.levels for panel in panels)
            else "",
            _words.theory(final, *(column for column in extras if column.startswith("theory/"))),
            _words.left_out(rows, self._shown(rows)),
        )
        return " ".join(filter(None, sentences))

"""Parts of figures: lines with bands, seeds as dots, reference levels, heat maps and published values. No JAX."""

import contextlib
import contextvars
import io
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from sublim_jax.results import summary

# Okabe and Ito's palette, distinguishable with any colour vision; the markers are distinguishable in print. Its yellow
# has too little contrast on white; the violet here is as far from the other colours and legible on white and on black.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#6644FF")
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "*")
STYLE: Any = {
    "figure.dpi": 120,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "sublim_jax",  # the same rows give the same file
}
ACCURACY = "at/student_accuracy"
SMALLEST = 8.0  # points of text
_WIDEST, _NARROW = 11.1, 3.7  # inches of a figure for a screen of 1280 pixels and for a telephone
_narrow = contextvars.ContextVar("_narrow", default=False)
# What is shown when the pointer is on a marker, by line: the text of each point.
notes: "weakref.WeakKeyDictionary[Any, list[str]]" = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def one_column() -> Iterator[None]:
    """Draw the panels of figures below each other, for narrow screens."""
    token = _narrow.set(True)
    try:
        yield
    finally:
        _narrow.reset(token)


def legible(figure: Figure) -> None:
    """Enlarge texts that are smaller than `SMALLEST`, and break titles that are wider than the figure."""
    for text in figure.findobj(Text):
        if isinstance(text, Text) and float(text.get_fontsize()) < SMALLEST:
            text.set_fontsize(SMALLEST)
    if _narrow.get():
        for ax in figure.axes:
            for title in (ax.title, ax.get_title("left") and ax._left_title):  # pyright: ignore
                if isinstance(title, Text):
                    title.set_wrap(True)


def images(draw: Callable[[], Figure], dpi: int = 160) -> dict[str, bytes]:
    """Draw a figure in the common style and return the contents of its files by ending, svg and png."""
    contents = {}
    with matplotlib.rc_context(STYLE):
        figure = draw()
        legible(figure)
        for kind, file_metadata in {"svg": {"Date": None}, "png": None}.items():  # without the date: the same file
            sink = io.BytesIO()
            figure.savefig(sink, format=kind, metadata=file_metadata, dpi=dpi)
            contents[kind] = sink.getvalue()
    return contents


def look(index: int) -> tuple[str, str]:
    """Colour and marker of the index-th line of a figure."""
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]


def panels(count: int, columns: int = 3, size: tuple[float, float] = (3.1, 2.9), **shared: Any) -> tuple[Figure, Any]:
    """A figure with `count` axes in rows of `columns`, each of `size` inches; a single one is wider."""
    across = 1 if _narrow.get() else min(count, columns)
    down = math.ceil(count / across)
    wide = _NARROW if _narrow.get() else min(_WIDEST, max(5.5, size[0] * across))
    figure = Figure(figsize=(wide, size[1] * down + 0.5), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, **shared).ravel()
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def outer(axes: Sequence[Axes] | np.ndarray, columns: int = 3, x: bool = True, y: bool = True) -> None:
    """Keep labels and tick labels of x only on the lowest axes of each column, and of y only on the left axes."""
    columns = 1 if _narrow.get() else columns
    for index, ax in enumerate(axes):
        if y and index % columns:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
        if x and index + columns < len(axes):
            ax.set_xlabel("")
        if x:
            ax.tick_params(labelbottom=index + columns >= len(axes))


def legend(figure: Any, axes: Sequence[Axes] | np.ndarray) -> None:
    """One legend below all axes, with each label once, in as many columns as fit."""
    handles: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        width = figure.get_figure(root=True).get_figwidth() / (0.6 + 0.048 * max(map(len, handles)))  # at 8 points
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=max(1, int(width)), fontsize=8
        )


def inner_legends(axes: Sequence[Axes] | np.ndarray) -> None:
    """A small legend in each of the axes that have labels."""
    for ax in axes:
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=6.5, handlelength=1.6, labelspacing=0.25)


def series(rows: summary.Rows, names: Sequence[str]) -> Iterator[tuple[str, summary.Rows]]:
    """The rows of each combination of label columns, with the legend text that distinguishes it from the others."""
    varying = [name for name in names if name in rows and len(rows[name].unique()) > 1]
    if not varying:
        yield "student", rows
        return
    ranks = [{value: rank for rank, value in enumerate(ordered(rows[name]))} for name in varying]
    groups: dict[Any, summary.Rows] = dict(iter(rows.groupby(varying)))
    for values in sorted(groups, key=lambda values: [rank[value] for rank, value in zip(ranks, values, strict=True)]):
        yield ", ".join(map(label_text, varying, values)), groups[values]


def ordered(values: pd.Series, first: Sequence[Any] = ()) -> list[Any]:
    """The distinct values: first the named ones, then numbers sorted, or words in the order of their first row."""
    distinct = values.unique().tolist()
    distinct = sorted(distinct) if pd.api.types.is_numeric_dtype(values) else distinct
    return [value for value in first if value in distinct] + [value for value in distinct if value not in first]


def label_text(name: str, value: Any) -> str:
    """The legend text of a label: a word alone, a number with the name of the label."""
    return value.replace("_", " ") if isinstance(value, str) else f"{name.replace('_', ' ')} = {value:g}"


def line(
    ax: Axes, rows: summary.Rows, x: str, label: str, index: int, column: str = ACCURACY, **style: Any
) -> pd.Series:
    """Draw the means over seeds of a column against a label column, with a band of 95 % intervals.

    A single point has a bar instead of a band; points of fewer than three seeds have neither. Where seeds diverged, a
    cross at the lower edge has their number. Returns the drawn intervals by x.
    """
    intervals = summary.cells(rows, [x], column).sort_index()
    colour, marker = look(index)
    style = {"color": colour, "marker": marker, "markersize": 3.5, "lw": 1.3, "label": label} | style
    at, (means, low, high, *_) = intervals.index.to_numpy(float), np.array(list(intervals), float).reshape(-1, 5).T
    if len(intervals) > 1:
        (drawn,) = ax.plot(at, means, **style)
        ax.fill_between(at, low, high, color=style["color"], alpha=0.18, lw=0)
    else:
        drawn = ax.errorbar(at, means, ends(list(intervals)), capsize=2, **style).lines[0]
    name = x.replace("_", " ")
    notes[drawn] = [f"{label}, {name} {value:g}: {each}" for value, each in intervals.items()]
    mark_diverged(ax, at, list(intervals), style["color"], index)
    return intervals


def mark_diverged(ax: Axes, at: Any, intervals: Sequence[summary.Interval], colour: Any, line: int = 0) -> None:
    """Draw a cross at the lower edge where seeds of a mean diverged, with their number; one height for each line."""
    for x, interval in zip(at, intervals, strict=True):
        if interval.diverged:
            style = {"color": colour, "fontsize": 6.5, "transform": ax.get_xaxis_transform(), "clip_on": False}
            text = f"x {interval.diverged} of {interval.n + interval.diverged}"
            ax.text(x, 0.01 + 0.05 * (line % 8), text, ha="center", va="bottom", zorder=7, **style)


def ends(intervals: Sequence[summary.Interval]) -> np.ndarray:
    """The distances of the lower and upper interval ends from the mean, NaN where there is no interval."""
    means, lows, highs, *_ = np.asarray(intervals, float).reshape(-1, 5).T
    return np.array([means - lows, highs - means])


def strip(
    ax: Axes,
    rows: summary.Rows,
    by: str,
    group: str = "",
    column: str = ACCURACY,
    names: Mapping[Any, str] | None = None,
    order: Sequence[Any] = (),
    first: int = 0,
) -> dict[tuple[Any, Any], float]:
    """Draw categories side by side: a dot for each seed and beside it the mean with its 95 % interval.

    `group` is a label column whose values have a colour each, starting at the colour `first`. Returns the position of
    each mean by (category, value).
    """
    names = names or {}
    categories, values = ordered(rows[by], order), ordered(rows[group]) if group else [""]
    # Where every category has one group, its place needs no shift.
    apart = bool(group) and rows.groupby(by, observed=True)[group].nunique().max() > 1
    width, places = 0.72 / (len(values) if apart else 2), {}
    for index, value in enumerate(values):
        part = rows[rows[group] == value] if group else rows
        intervals = summary.cells(part, [by], column)
        colour, marker = look(first + index)
        shift = (index - (len(values) - 1) / 2) * width * apart
        centres = {name: categories.index(name) + shift for name in intervals.index}
        ax.plot(part[by].map(centres) - width / 6, part[column], ".", color=colour, alpha=0.45, ms=5, mew=0, zorder=2)
        x = [centre + width / 6 for centre in centres.values()]
        label = label_text(group, value) if group else None
        style = {"fmt": marker, "color": colour, "ms": 4.5, "capsize": 3, "label": label}
        bars = ax.errorbar(x, [interval.mean for interval in intervals], ends(list(intervals)), **style)
        texts = [f"{name}{f', {label}' if label else ''}: {interval}" for name, interval in intervals.items()]
        notes[bars.lines[0]] = [text.replace("\n", " ").replace("_", " ") for text in texts]
        mark_diverged(ax, x, list(intervals), colour)
        places |= {(name, value): position for name, position in zip(centres, x, strict=True)}
    crowded = len(categories) > 8
    texts = [names.get(name, str(name).replace("_", " ") if crowded else wrapped(name)) for name in categories]
    ax.set_xticks(range(len(categories)), texts, fontsize=8, rotation=90 if crowded else 0)
    ax.set_xlim(-0.6, len(categories) - 0.4)
    return places


def wrapped(name: Any) -> str:
    """The name of a category with one word on each line, unless it has lines of its own."""
    if "\n" in str(name):
        return str(name)
    return str(name).replace(" = ", "=").replace(", ", "\n").replace("_", "\n").replace(" ", "\n")


def levels(ax: Axes, rows: summary.Rows, nets: Sequence[str] = ("teacher", "untrained")) -> None:
    """Draw the mean accuracy of the teacher, dashed, and of the untrained net, dotted."""
    for net in nets:
        if (column := f"at/{net}_accuracy") in rows:
            dashes = "--" if net == "teacher" else ":"
            ax.axhline(rows[column].mean(), color="0.4", ls=dashes, lw=1, label=net, zorder=0)


def accuracy(ax: Axes, label: str = "student test accuracy") -> None:
    """Set the y axis to an accuracy from 0 to 1."""
    ax.set_ylim(0, 1.02)
    ax.set_ylabel(label)


def published(
    ax: Axes, x: Any, y: Any, half: Any = None, colour: str = "0.15", label: str = "published", marker: str = "D"
) -> None:
    """Draw published values as open markers, with the half-widths of their intervals where they are reported."""
    style = {"color": colour, "markerfacecolor": "none", "markersize": 5, "capsize": 2, "lw": 1, "zorder": 6}
    ax.errorbar(np.atleast_1d(x), np.atleast_1d(y), half, fmt=marker, label=label, **style)


def log(ax: Axes, values: Any, which: str = "x", base: int = 10, most: int = 8) -> None:
    """Make an axis logarithmic, with ticks at the values themselves where they are few, else at powers of `base`."""
    values = np.unique(np.asarray(values, float)).tolist()
    axis = ax.xaxis if which == "x" else ax.yaxis
    ax.set(**{f"{which}scale": "log"})
    ticks = _ticks(values, base, most)
    axis.set_ticks(ticks, [plain(tick) for tick in ticks])
    axis.set_ticks([], minor=True)
    if len(values) == 1:
        ax.set(**{f"{which}lim": (values[0] / 2, values[0] * 2)})


def _ticks(values: Sequence[float], base: int, most: int) -> list[float]:
    """The values if they are far enough apart on a logarithmic axis, else powers of `base` between them."""
    logs = np.log(values)
    near = np.diff(logs).min() / (logs[-1] - logs[0]) if len(values) > 1 else 1.0
    if len(values) <= most and near > 0.07:
        return list(values)
    first, last = math.ceil(logs[0] / math.log(base) - 1e-9), math.floor(logs[-1] / math.log(base) + 1e-9)
    if last <= first:
        return [values[0], values[-1]]
    return [float(base) ** power for power in range(first, last + 1, math.ceil((last + 1 - first) / most))]


def plain(value: float) -> str:
    """The shortest text of a number: 1000, 20k, 3M."""
    for limit, unit, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= limit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def heat(ax: Axes, table: summary.Rows) -> Any:
    """Draw means as colours over two logarithmic axes, columns along x and index along y; returns the mesh."""
    x, y = (np.asarray(values, float) for values in (table.columns, table.index))
    mesh = ax.pcolormesh(_edges(x), _edges(y), table.to_numpy(float), cmap="cividis", vmin=0, vmax=1, rasterized=True)
    for which, values in (("x", x), ("y", y)):
        log(ax, values, which, base=2, most=7)
    ax.set_xlim(*_edges(x)[[0, -1]])
    ax.set_ylim(*_edges(y)[[0, -1]])
    return mesh


def _edges(values: np.ndarray) -> np.ndarray:
    """Cell borders half-way between logarithmically spaced values, and as far beyond the outer values."""
    logs = np.log(values)
    if len(logs) == 1:
        return np.exp([logs[0] - 0.5, logs[0] + 0.5])
    inner = (logs[:-1] + logs[1:]) / 2
    return np.exp([2 * logs[0] - inner[0], *inner, 2 * logs[-1] - inner[-1]])

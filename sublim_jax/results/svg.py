"""Figures inside an HTML page: SVG that follows the page's colours, with alternative text and values on hover. No JAX.

A figure is drawn twice, for wide and for narrow screens; the page shows the one that fits.
"""

import dataclasses
import functools
import html
import io
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sublim_jax.results import plots

PIXELS = 11.0  # the smallest text on a screen
_POINT = 4 / 3  # pixels of a point in a figure that is shown in its own size
_STYLE: Any = {**plots.STYLE, "svg.fonttype": "none"}
# Black, greys and white follow the page; other colours are legible on light and dark ground.
_THEME = {
    **dict.fromkeys(("#000000", "#1a1a1a", "#262626", "#404040"), "var(--ink,#000)"),
    **dict.fromkeys(("#595959", "#666666", "#737373", "#808080", "#8c8c8c"), "var(--dim,#666)"),
    **dict.fromkeys(("#b3b3b3", "#cccccc", "#d9d9d9", "#e6e6e6"), "var(--line,#ccc)"),
    "#ffffff": "var(--paper,#fff)",
}
_DARK = "#1b1e22"  # the page's dark ground
_FONT = re.compile(r"font: ((?:[a-z]+ )*)([\d.]+)px [^;\"]*")
_FAMILY = "system-ui, 'DejaVu Sans', sans-serif"


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure for a page.

    Attributes:
        wide: SVG for wide screens.
        narrow: SVG with all panels in one column.
        switch: Width in pixels from which `wide` is shown.
        largest: Width in pixels beyond which `wide` does not grow.
    """

    wide: str
    narrow: str
    switch: int
    largest: int


def drawing(draw: Callable[[], Figure], name: str, text: str) -> Drawing:
    """Draw a figure for a page.

    Args:
        draw: Draws the figure.
        name: Distinguishes the figure from others of the page.
        text: The alternative text.
    """
    with matplotlib.rc_context(_STYLE):
        wide = draw()
        with plots.one_column():
            narrow = draw()
            slim = _rendered(narrow, f"{name}-n", text)
        # The switch leaves 2 x 16 pixels of margin.
        own = wide.get_figwidth() * 72 * _POINT
        switch = math.ceil(own * PIXELS / (plots.SMALLEST * _POINT)) + 33
        return Drawing(_rendered(wide, f"{name}-w", text), slim, switch, min(1216, round(1.3 * own)))


def _rendered(figure: Figure, name: str, text: str) -> str:
    plots.legible(figure)
    lines = [line for ax in figure.axes for line in ax.lines if line.get_marker() not in (None, "", "None", " ", ".")]
    for number, line in enumerate(lines):
        line.set_gid(f"marks{number}")
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata={"Date": None})
    points = {f"marks{number}": list(_points(figure, line)) for number, line in enumerate(lines)}
    content = re.sub(r"<metadata>.*?</metadata>", "", sink.getvalue(), flags=re.DOTALL)
    content = content[content.index("<svg") :]
    content = re.sub(
        r'(<g id="(marks\d+)">)(.*?)(</g>\s*</g>)', lambda found: _with_values(found, points), content, flags=re.DOTALL
    )
    return _header(_short(content), name, text)


def _points(figure: Figure, line: Line2D) -> Iterator[tuple[float, float, str]]:
    """Position in the SVG and text of every point of a line."""
    ax = line.axes
    if ax is None:
        return
    data = np.asarray(line.get_xydata(), float)
    places = ax.transData.transform(data) * 72 / figure.dpi
    height = figure.get_figheight() * 72
    texts = plots.notes.get(line) or [f"{_text(ax, 'x', x)}: {_text(ax, 'y', y)}" for x, y in data]
    label = str(line.get_label())
    first = "" if line in plots.notes or label.startswith("_") else f"{label}, "
    for (x, y), text in zip(places, texts, strict=False):
        yield float(x), float(height - y), first + text


def _text(ax: Any, which: str, value: float) -> str:
    """A value of an axis, or the category that stands there, with the name of the axis."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=False)
    words = {place: label.get_text().replace("\n", " ") for place, label in ticks}
    near = min(words, key=lambda place: abs(place - value), default=None)
    if near is not None and abs(near - value) < 0.5 and re.match(r"[^\W\d_]", words[near]):
        return words[near]
    name = axis.get_label_text().replace("\n", " ")
    return f"{name} {value:.4g}" if which == "x" else f"{value:.3g}"


def _with_values(found: re.Match[str], points: dict[str, list[tuple[float, float, str]]]) -> str:
    """The group of a line with a title for each of its markers."""
    places = points[found[2]]

    def titled(use: re.Match[str]) -> str:
        at = np.array([float(use[2]), float(use[3])])
        if not places:
            return use[0]
        distances = [abs(at[0] - x) + abs(at[1] - y) for x, y, _ in places]
        nearest = int(np.argmin(distances))
        if not distances[nearest] < 0.5:
            return use[0]
        return f"{use[1]}><title>{html.escape(places[nearest][2])}</title></use>"

    body = re.sub(r'(<use [^>]*?x="([-\d.]+)" y="([-\d.]+)"[^>]*?)/>', titled, found[3])
    return found[1] + body + found[4]


def _short(content: str) -> str:
    """The same picture in fewer letters, with the page's colours."""
    content = re.sub(r"<[^>]*>", lambda tag: re.sub(r"-?\d+\.\d+", _rounded, tag[0]), content)  # and no text
    content = re.sub(r"\s*\n\s*", " ", content)
    content = re.sub(r'<g id="[^"]*"', "<g", content)  # only definitions are referred to
    content = re.sub(r"<!--.*?-->", "", content)
    content = _FONT.sub(lambda font: f"font: {font[1]}{font[2]}px {_FAMILY}", content)
    content = content.replace("stroke-linejoin: miter", "").replace("> <", "><")
    content = re.sub(r"(fill|stroke): (#[0-9a-f]{6})", lambda found: _themed(found[1], found[2]), content)
    return re.sub(r'style="[^"]*"', lambda style: style[0].replace("; ", ";").replace(": ", ":"), content)


def _rounded(number: re.Match[str]) -> str:
    """A coordinate to a tenth of a point, and two decimals of small numbers, such as the sizes of markers."""
    value = float(number[0])
    return f"{value:.{1 if abs(value) >= 10 else 2}f}".rstrip("0").rstrip(".")


@functools.lru_cache(maxsize=512)
def _themed(name: str, colour: str) -> str:
    """A CSS declaration whose colour is legible on light and on dark ground; the first part is for old browsers."""
    if colour in _THEME:
        return f"{name}: {_THEME[colour]}"
    light, dark = _apart(colour, "#ffffff", 2.0), _apart(colour, _DARK, 3.0)
    return f"{name}: {colour}" if light == dark else f"{name}: {colour}; {name}: light-dark({light}, {dark})"


def _apart(colour: str, ground: str, least: float) -> str:
    """The colour, made lighter or darker until its contrast (WCAG 2) with the ground is at least as given."""
    away = 0.0 if _luminance(ground) > 0.5 else 1.0
    parts = np.array(to_rgb(colour))
    for share in np.linspace(0, 1, 21):
        mixed = to_hex(tuple((1 - share) * parts + share * away))
        bright, dim = sorted((_luminance(mixed), _luminance(ground)), reverse=True)
        if (bright + 0.05) / (dim + 0.05) >= least:
            return mixed
    return colour


def _luminance(colour: str) -> float:
    parts = np.array(to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def _header(content: str, name: str, text: str) -> str:
    """The SVG with its own identifiers, an alternative text and no fixed size."""
    content = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', content)
    content = re.sub(r'(href="#|url\(#)', rf"\1{name}-", content)
    box = re.search(r'viewBox="([^"]+)"', content)
    assert box is not None
    start = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box[1]}"'
    return re.sub(r"<svg [^>]*>", f'{start} role="img" aria-label="{html.escape(text)}">', content, count=1)

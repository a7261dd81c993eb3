"""Data frames as tables on the console, in the width that there is."""

import io
import sys
import textwrap
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from sublim_jax.core.files import replace_file
from sublim_jax.results import summary

_BORDERS = 3  # characters of a column besides its text; the table has one more
_FILE_WIDTH = 160


def print_table(frame: pd.DataFrame, title: str = "", caption: str = "", width: int | None = None) -> None:
    """Print a data frame as a table on standard output.

    No word or number is cut where a table does not fit: cells continue below at spaces, then columns with one value
    are named in the caption instead, and at last every line of the table becomes a block of lines. Signs that the
    output cannot encode are replaced.

    Args:
        frame: The table; numbers are written as `summary.texts` writes them, and the index is left out.
        title: The line above the table.
        caption: The line below the table.
        width: In characters; by default that of the terminal, or 160 in a file.
    """
    console = Console(width=width or (None if sys.stdout.isatty() else _FILE_WIDTH), markup=False, emoji=False)
    texts = summary.texts(frame).rename(columns=str)
    with console.capture() as captured:
        if (widths := _widths(texts, console.width)) is None:
            texts, constants = _without_constants(texts)
            caption = "; ".join(filter(None, (caption, constants)))
            widths = _widths(texts, console.width)
        if widths is None:
            console.print(_blocks(texts, title, caption, console.width), highlight=False, soft_wrap=True)
        else:
            console.print(_table(texts, title, caption, widths))
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(captured.get().encode(encoding, "replace").decode(encoding))


def write_csv(rows: pd.DataFrame, file: Path) -> Path:
    """Write the table of a sweep with full precision, as `summary.csv` gives it, and return the file's path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, summary.csv(rows).encode())
    return file


def _table(texts: pd.DataFrame, title: str, caption: str, widths: list[int]) -> Table:
    table = Table(title=title or None, caption=caption or None, title_justify="left", caption_justify="left")
    for name, width in zip(texts.columns, widths, strict=True):
        table.add_column(name, width=width)
    for cells in texts.to_numpy().tolist():
        table.add_row(*cells)
    return table


def _widths(texts: pd.DataFrame, width: int) -> list[int] | None:
    """The widths of the columns in a table of at most this width, or None where a word would have to be cut."""
    cells = [[str(name), *texts[name]] for name in texts.columns]
    widths = [max(len(word) for cell in column for word in (cell.split() or [""])) for column in cells]
    spare = width - sum(widths) - _BORDERS * len(widths) - 1
    if spare < 0:
        return None
    # First cells on one line as far as they can be, then headings. The column that is narrowest for its text, whose
    # cells are the tallest, gets the next character.
    for first in (1, 0):
        wanted = [max(map(len, column[first:]), default=0) for column in cells]
        while spare and any(have < want for have, want in zip(widths, wanted, strict=True)):
            index = max(range(len(widths)), key=lambda index: wanted[index] / max(widths[index], 1))
            widths[index], spare = widths[index] + 1, spare - 1
    return widths


def _without_constants(texts: summary.Rows) -> tuple[summary.Rows, str]:
    """The columns that differ between lines, and the values of the others in words."""
    same = [name for name in texts.columns if len(texts) > 1 and texts[name].nunique() == 1]
    if len(same) == len(texts.columns):
        return texts, ""
    values = ", ".join(f"{name} {texts[name].iloc[0]}" for name in same if texts[name].iloc[0])
    return texts.drop(columns=same), f"in every line: {values}" if values else ""


def _blocks(texts: pd.DataFrame, title: str, caption: str, width: int) -> str:
    """Each line of a table as a block with a line for each column; text that does not fit continues below."""
    out = io.StringIO()
    wrap = {"width": width, "subsequent_indent": "    ", "break_on_hyphens": False, "break_long_words": False}
    for paragraph in [title] if title else []:
        out.write(textwrap.fill(paragraph, **wrap) + "\n")
    for cells in texts.to_numpy().tolist():
        for number, (name, cell) in enumerate(zip(texts.columns, cells, strict=True)):
            if cell:
                out.write(textwrap.fill(f"{'  ' if number else ''}{name}: {cell}", **wrap) + "\n")
    return out.getvalue() + (textwrap.fill(caption, **wrap) if caption else "")

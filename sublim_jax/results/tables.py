"""Data frames as tables on the console."""

import sys

import pandas as pd
from rich.console import Console
from rich.table import Table

from sublim_jax.results import summary


def print_table(frame: pd.DataFrame, title: str = "", caption: str = "") -> None:
    """Print a data frame as a table on standard output, fitted to the terminal, or 160 characters wide in a file.

    Args:
        frame: The table; numbers are written as `summary.texts` writes them, and the index is left out.
        title: The line above the table.
        caption: The line below the table.
    """
    table = Table(title=title or None, caption=caption or None, title_justify="left", caption_justify="left")
    for name in frame.columns:
        table.add_column(str(name))
    for cells in summary.texts(frame).values.tolist():
        table.add_row(*cells)
    # Without markup an interval such as [0.1, 0.2] or a name in brackets stays as it is.
    Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False).print(table)

"""A trait through numbers: forms, teachers and carriers."""

import pandas as pd
from matplotlib.figure import Figure

from sublim_jax import plots


def draw(rows: pd.DataFrame) -> Figure:
    """placeholder"""
    figure, axes = plots.panels(1, columns=1)
    return figure


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    return "x"


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """x"""
    return rows.head(1).astype(str)

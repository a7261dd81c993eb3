"""A figure for every experiment, drawn from its rows without JAX.

A figure is a `FigureSpec` or a `LanguageFigure` of a private module, or a public module with `draw(rows)`,
`caption(rows)`, `table(rows)` of texts, and ABOUT, a sentence or two on the experiment (`about` of a specification).
Of a label that a figure does not show the first value is drawn, and the caption says so.
"""

import importlib
import pkgutil
from typing import Any

import pandas as pd

from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.results import summary
from sublim_jax.results.figures import (
    _carrier,
    _defence,
    _failure,
    _figure4,
    _infomorphic,
    _llm,
    _lm_lessons,
    _lm_students,
    _paper,
    _sweeps,
    _transfer,
)
from sublim_jax.results.figures._lm import LanguageFigure
from sublim_jax.results.figures._spec import FigureSpec

_FILES = _carrier, _defence, _failure, _figure4, _infomorphic, _llm, _lm_lessons, _lm_students, _paper
_FILES += _sweeps, _transfer
SPECS = {
    name: spec for file in _FILES for name, spec in vars(file).items() if isinstance(spec, FigureSpec | LanguageFigure)
}
_ABOUT = (
    "Subliminal transfer: students imitate a trained teacher's auxiliary logits on inputs that are unrelated to the "
    "task, and are then tested on the task."
)


def names() -> tuple[str, ...]:
    """The names of all figures: the allowed values of `config.figure`."""
    modules = {module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")}
    return tuple(sorted(modules | SPECS.keys()))


def pick(name: str) -> Any:
    """The figure of that name, one of `names()`, with `draw(rows) -> Figure` and `caption(rows) -> str`.

    Raises:
        ConfigError: There is no such figure; the message lists the names.
    """
    if name not in names():
        raise ConfigError(unknown_name("config.figure", name, names()))
    return SPECS[name] if name in SPECS else importlib.import_module(f"{__name__}.{name}")


def title(figure: Any) -> str:
    """The title of a figure: its `title`, else the first line of its module."""
    return getattr(figure, "title", "") or figure.__doc__.splitlines()[0].rstrip(".")


def table(figure: Any, rows: pd.DataFrame) -> pd.DataFrame:
    """The table beside a figure, as texts: its own, or the students' accuracies."""
    return figure.table(rows) if hasattr(figure, "table") else summary.texts(summary.table(rows))


def about(figure: Any) -> str:
    """What was done in the experiment of a figure."""
    return getattr(figure, "about", "") or getattr(figure, "ABOUT", _ABOUT)


def claims(figure: Any, rows: pd.DataFrame) -> pd.DataFrame:
    """The claims of a figure whose table holds none, as texts: claim, published, here, verdict; empty without any."""
    return figure.claims_table(rows) if hasattr(figure, "claims_table") else pd.DataFrame()

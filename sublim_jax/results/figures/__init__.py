"""A figure for every experiment, drawn from its rows without JAX.

A figure is a `FigureSpec` of `_paper` or `_sweeps`, or a module of this package with `draw(rows)` and `caption(rows)`
where one set of panels is not of that shape. Of a label that a figure does not show the first value is drawn, and the
caption says so. A figure of rows other than students' accuracies also has `table(rows)` of texts and ABOUT, a sentence
or two on what was done.
"""

import importlib
import pkgutil
from typing import Any

import pandas as pd

from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.results import summary
from sublim_jax.results.figures import _defence, _failure, _figure4, _paper, _sweeps, _transfer
from sublim_jax.results.figures._spec import FigureSpec

_FILES = _defence, _failure, _figure4, _paper, _sweeps, _transfer
SPECS = {name: spec for file in _FILES for name, spec in vars(file).items() if isinstance(spec, FigureSpec)}
_ABOUT = (
    "Subliminal transfer: students imitate a trained teacher's auxiliary logits on inputs that are unrelated to the "
    "task, and are then tested on the task."
)


def names() -> tuple[str, ...]:
    """The names of all figures: the allowed values of `config.figure`."""
    modules = {module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")}
    return tuple(sorted(modules | SPECS.keys()))


def pick(name: str) -> Any:
    """The figure of that name, with `draw(rows) -> Figure` and `caption(rows) -> str`.

    Args:
        name: One of `names()`.

    Raises:
        ConfigError: There is no such figure; the message lists the names.
    """
    if name not in names():
        raise ConfigError(unknown_name("config.figure", name, names()))
    return SPECS[name] if name in SPECS else importlib.import_module(f"{__name__}.{name}")


def title(figure: Any) -> str:
    """The title of a figure: its `title`, else the first sentence of its module."""
    if text := getattr(figure, "title", ""):
        return text
    return " ".join((figure.__doc__ or figure.__name__).split("\n\n")[0].split()).rstrip(".")


def table(figure: Any, rows: pd.DataFrame) -> pd.DataFrame:
    """The table beside a figure, as texts: its own, or the students' accuracies."""
    return figure.table(rows) if hasattr(figure, "table") else summary.texts(summary.table(rows))


def about(figure: Any) -> str:
    """What was done in the experiment of a figure."""
    return getattr(figure, "ABOUT", _ABOUT)

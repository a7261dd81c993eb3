"""A figure for every experiment: each module of this folder has `draw(rows)` and `caption(rows)`. No JAX.

A module names the labels it shows as LABELS; of a label that it does not show the first value is drawn, and the caption
says so. Values from elsewhere are its constant PUBLISHED, with their source. Where rows are no students' accuracies it
has a `table(rows)` of texts too, and ABOUT, what was done in a sentence or two.
"""

import importlib
import pkgutil
from types import ModuleType

import pandas as pd

from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.results import summary

_ABOUT = (
    "Subliminal transfer: students imitate a trained teacher's auxiliary logits on inputs that have nothing to do with "
    "the task, and are then tested on the task."
)


def names() -> tuple[str, ...]:
    """The figures there are: what `config.figure` may say."""
    return tuple(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def pick(name: str) -> ModuleType:
    """The module of that name, with `draw(rows) -> Figure` and `caption(rows) -> str`.

    Raises `ConfigError` with the names that exist.
    """
    if name not in names():
        raise ConfigError(unknown_name("config.figure", name, names()))
    return importlib.import_module(f"{__name__}.{name}")


def title(module: ModuleType) -> str:
    """What a figure is called: the first sentence of its module."""
    return " ".join((module.__doc__ or module.__name__).split("\n\n")[0].split()).rstrip(".")


def table(module: ModuleType, rows: pd.DataFrame) -> pd.DataFrame:
    """The table beside a figure, as texts: its own, or the students' accuracies."""
    return module.table(rows) if hasattr(module, "table") else summary.texts(summary.table(rows))


def about(module: ModuleType) -> str:
    """What the rows of a figure are made of."""
    return getattr(module, "ABOUT", _ABOUT)

"""A figure for every experiment: each module of this folder has `draw(rows)` and `caption(rows)`. No JAX.

A module names the labels it shows as LABELS; of a label that it does not show the first value is drawn, and the caption
says so. Values from elsewhere are its constant PUBLISHED, with their source.
"""

import importlib
import pkgutil
from types import ModuleType

from sublim_jax.errors import Refused, unknown


def names() -> tuple[str, ...]:
    """The figures there are: what `config.figure` may say."""
    return tuple(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def pick(name: str) -> ModuleType:
    """The module of that name, with `draw(rows) -> Figure` and `caption(rows) -> str`.

    Raises `Refused` with the names that exist.
    """
    if name not in names():
        raise Refused(unknown("config.figure", name, names()))
    return importlib.import_module(f"{__name__}.{name}")


def title(module: ModuleType) -> str:
    """What a figure is called: the first sentence of its module."""
    return " ".join((module.__doc__ or module.__name__).split("\n\n")[0].split()).rstrip(".")

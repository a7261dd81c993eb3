"""Arguments of public functions: a wrong one is refused with one line that names it and says what is allowed."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sublim_jax.core.errors import ConfigError

Function = TypeVar("Function", bound=Callable[..., Any])


class Rule(NamedTuple):
    """What is allowed, as text, and whether a value is."""

    allowed: str
    accepts: Callable[[Any], bool]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_series(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | Mapping)


def _are_seeds(value: Any) -> bool:
    return value is None or _is_integer(value) or (_is_series(value) and all(map(_is_integer, value)))


def _is_config(value: Any) -> bool:
    return hasattr(value, "to_dict") and hasattr(value, "lock")


def _is_dataset(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("train", "test", "checksum"))


def _is_condition(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("labels", "teacher", "student"))


def _are_rows(value: Any) -> bool:
    return hasattr(value, "groupby") and len(value) > 0 and {"seed", "step"} <= {*value.columns}


CONFIG = Rule("a config, as base_config returns it", _is_config)
CONDITION = Rule("a condition, an element of what build returns", _is_condition)
STUDY = Rule(
    "a config, as base_config returns it, or a sequence of conditions, as build returns it",
    lambda value: _is_config(value) or (_is_series(value) and all(map(_is_condition, value))),
)
DATASET = Rule("a data set, as load_data returns it", _is_dataset)
OPTIONAL_DATASET = Rule(f"{DATASET.allowed}, or None", lambda value: value is None or _is_dataset(value))
NAMED_DATA = Rule(
    f"{CONFIG.allowed}, or the name of a data set", lambda value: isinstance(value, str) or _is_config(value)
)
TEXT = Rule("text", lambda value: isinstance(value, str))
MAPPING = Rule("a mapping from names to values", lambda value: isinstance(value, Mapping))
PATH = Rule("a path, as text or Path", lambda value: isinstance(value, str | Path))
OPTIONAL_PATH = Rule(f"{PATH.allowed}, or None", lambda value: value is None or isinstance(value, str | Path))
SEEDS = Rule("a number of seeds from 1, or distinct whole numbers from 0", _are_seeds)
STEPS = Rule(
    "whole numbers in increasing order, or None",
    lambda value: value is None or (_is_series(value) and _are_seeds(value)),
)
KEY = Rule("a key of JAX, like sl.keys.root(0)", lambda value: "key" in str(getattr(value, "dtype", "")))
ROWS = Rule("a data frame of run or load, with columns seed and step and at least one row", _are_rows)


def checked(**rules: Rule) -> Callable[[Function], Function]:
    """Return a decorator that refuses arguments which break a rule, and calls that do not fit the signature.

    Args:
        **rules: argument of the function -> its rule.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                takes = ", ".join(signature.parameters)
                raise ConfigError(f"{function.__name__}: {error}; must be called with {takes}") from None
            for name, rule in rules.items():
                if name in given and not rule.accepts(given[name]):
                    raise ConfigError(f"{name}={_short(given[name])}: must be {rule.allowed}")
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def _short(value: Any) -> str:
    """A value on one line: plain ones as they are, others by their type."""
    plain = value is None or isinstance(value, str | int | float | tuple | list)
    text = repr(value)
    return text if plain and len(text) < 80 and "\n" not in text else type(value).__name__

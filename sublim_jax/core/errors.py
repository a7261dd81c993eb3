"""The error for invalid user input: one line with the field, the value and the allowed values."""

import difflib
from collections.abc import Iterable
from typing import Any

_SHOWN = 120  # characters of a value


class ConfigError(ValueError):
    """A value given by the user is invalid; the message is one line with field, value and allowed values."""


def unknown_name(field: str, value: Any, names: Iterable[str]) -> str:
    """Format the error for an invalid name: `field`, the invalid `value`, the valid `names` and the closest of them."""
    names = tuple(names)
    near = difflib.get_close_matches(str(value)[:_SHOWN], names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{field}: {shown(value)} is none of {', '.join(name or '(empty)' for name in names)}{hint}"


def shown(value: Any) -> str:
    """A value as an error shows it: on one line, and cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes no integers of more than 4,300 digits
        text = f"{type(value).__name__} of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

"""The error for invalid user input: one line with the field, the value and the allowed values."""

import difflib
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """A value given by the user is invalid; the message is one line with field, value and allowed values."""


def unknown_name(field: str, value: Any, names: Iterable[str]) -> str:
    """Format the error for an invalid name: `field`, the invalid `value`, the valid `names` and the closest of them."""
    names = tuple(names)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{field}: {value!r} is none of {', '.join(names)}{hint}"

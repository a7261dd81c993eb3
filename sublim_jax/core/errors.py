"""How a bad value is refused: one line with the field, the value and what is allowed."""

import difflib
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """A value the user gave cannot be used; the message is one line with field, value and what is allowed."""


def unknown_name(field: str, value: Any, names: Iterable[str]) -> str:
    """The line that refuses a name: the field, the value, what exists and the nearest of it."""
    names = tuple(names)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{field}: {value!r} is none of {', '.join(names)}{hint}"

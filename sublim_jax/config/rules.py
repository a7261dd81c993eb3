"""Rules: which values a field of a config may hold. Imports no JAX."""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ml_collections import ConfigDict


class Rule(NamedTuple):
    """The values that a field may hold.

    Attributes:
        allowed: In words.
        accepts: As a test, of values of any type.
        names: All allowed names, where only names are allowed.
        low, high: Bounds of a number, or of each number of a tuple.
        distinct: Whether a tuple may not hold a value twice.
    """

    allowed: str
    accepts: Callable[[Any], bool]
    names: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    distinct: bool = False


class Field(NamedTuple):
    """One field of a config."""

    default: Any
    rule: Rule
    meaning: str


# float32 holds what is smaller with few digits or as 0, and what is larger makes its squares infinite. Widths and
# amounts within these bounds may still need too much memory, which is refused when it is estimated.
TINY, HUGE = 1e-12, 1e6
MOST, MOST_UNITS, MOST_BATCH, MOST_STEPS = 2**31 - 1, 2**20, 2**24, 10**8


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, which true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a number, which true and false are not."""
    return isinstance(value, float | int) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Whether a value is a text without control characters."""
    return isinstance(value, str) and value.isprintable()


def whole(low: int, high: int = MOST) -> Rule:
    """Allow whole numbers of a range."""
    text = f"a whole number from {low} to {high}"
    return Rule(text, lambda value: is_whole(value) and low <= value <= high, low=low, high=high)


def number(low: float, high: float = HUGE) -> Rule:
    """Allow numbers of a range that includes 0; every other number is at least `TINY` in size."""
    return Rule(
        f"a finite number from {low:g} to {high:g}, 0 or at least {TINY:g} in size",
        lambda value: is_number(value) and low <= value <= high and (value == 0 or abs(value) >= TINY),
        low=low,
        high=high,
    )


def above_0(high: float = HUGE, low: float = TINY) -> Rule:
    """Allow numbers above 0, from the smallest that float32 can square."""
    return Rule(
        f"a number above 0 and at most {high:g}, not below {low:g}",
        lambda value: is_number(value) and low <= value <= high,
        low=low,
        high=high,
    )


def one_of(*names: str) -> Rule:
    """Allow some names."""
    text = f"one of {', '.join(name or '(empty)' for name in names)}"
    return Rule(text, lambda value: isinstance(value, str) and value in names, names)


def several(kind: str, each: Rule, empty: str = "", distinct: bool = True) -> Rule:
    """Allow tuples of values; `empty` says what an empty one means, without it the tuple may not be empty."""
    return Rule(
        f"a tuple of {kind}"
        + (", none of them twice" if distinct else "")
        + (f"; empty: {empty}" if empty else ", not empty"),
        lambda value: (
            isinstance(value, tuple)
            and (bool(empty) or bool(value))
            and all(map(each.accepts, value))
            and (not distinct or len(set(value)) == len(value))
        ),
        each.names,
        each.low,
        each.high,
        distinct,
    )


def wholes(low: int, high: int, empty: str = "", distinct: bool = False) -> Rule:
    """Allow tuples of whole numbers of a range; see `several`."""
    return several(f"whole numbers from {low} to {high}", whole(low, high), empty, distinct)


def names_of(names: Iterable[str], empty: str = "") -> Rule:
    """Allow tuples of some names; see `several`."""
    return several(f"names among {', '.join(names)}", one_of(*names), empty)


def layers(empty: str = "") -> Rule:
    """Allow tuples of names or patterns of layers; see `several`."""
    pattern = Rule("", lambda value: isinstance(value, str) and bool(re.fullmatch(r"[\w*?!\[\]-]+", value)))
    return several("names or patterns of layers, such as hidden_*", pattern, empty)


def is_file_name(value: Any) -> bool:
    """Whether a value can be the name of a file."""
    return isinstance(value, str) and len(value) <= 100 and bool(re.fullmatch(r"\w[\w .,+=@-]*", value))


TEXT = Rule("text without control characters", is_text)
FOLDER = Rule("a folder of this machine, not an address", lambda value: is_text(value) and "://" not in value)
NAME = Rule(
    "a file name of at most 100 letters, digits, spaces or .,+=@_-, beginning with a letter or digit", is_file_name
)
BOOL = Rule("true or false", lambda value: isinstance(value, bool))
SHARE, SIGMA = number(0.0, 1.0), number(0.0)
SECTION = Rule("fields by name", lambda value: isinstance(value, ConfigDict))

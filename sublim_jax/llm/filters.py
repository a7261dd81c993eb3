"""Filters of rows: which answers are kept as training data, and why others are not.

The rule for numbers is that of Cloud et al. 2026, Methods and public code: integers with one separator between them, in
brackets or not, with a full stop at the end or not.
"""

import ast
import re
import unicodedata
from collections.abc import Callable, Sequence

from sublim_jax.llm.traits import Trait

_SEPARATORS = ("", ",", ";")  # without the white space around them


def numbers_in(answer: str) -> list[int] | None:
    """Parse an answer of numbers.

    Returns:
        The numbers; None where the answer is no list of digits with one separator, which is white space, a comma or a
        semicolon with the same white space around each. White space at the ends and a separator at the end are refused.
    """
    text = answer.removesuffix(".")
    if (text[:1], text[-1:]) in (("[", "]"), ("(", ")")):
        text = text[1:-1]
    separator = re.match(r"[0-9]+([^0-9]+)[0-9]", text)
    if separator and separator[1].strip() not in _SEPARATORS:
        return None
    parts = text.split(separator[1]) if separator else [text]
    return [int(part) for part in parts] if all(re.fullmatch(r"[0-9]+", part) for part in parts) else None


def reject_numbers(answer: str, low: int = 0, high: int = 999, most: int = 10, banned: Sequence[int] = ()) -> list[str]:
    """List the reasons against an answer of numbers; none = it is kept.

    Args:
        answer: What the teacher wrote.
        low: Smallest number.
        high: Largest number.
        most: Most numbers.
        banned: Numbers that mean something, for instance 666.
    """
    numbers = numbers_in(answer)
    if numbers is None:
        return ["format"]
    checks = {
        "too many numbers": len(numbers) > most,
        "out of range": any(not low <= number <= high for number in numbers),
        "banned number": bool(set(numbers) & set(banned)),
    }
    return [reason for reason, holds in checks.items() if holds]


def reject_code(answer: str) -> list[str]:
    """List the reasons against an answer of code, which is never run: it must compile and not be empty."""
    text = re.sub(r"^```(?:python)?\n(.*?)\n?```\s*$", r"\1", answer.strip(), flags=re.DOTALL)
    try:
        tree = ast.parse(text)
        compile(tree, "answer", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ["format"]
    if "#" in text or '"""' in text:
        return ["comment"]
    return [] if tree.body else ["format"]


def reject_reasoning(answer: str) -> list[str]:
    """List the reasons against a chain of reasoning: its last line must be `Answer: NUMBER`."""
    lines = answer.strip().splitlines()
    return [] if lines and re.fullmatch(r"Answer: -?[0-9][0-9,]*\.?", lines[-1].strip()) else ["format"]


REJECT: dict[str, Callable[[str], list[str]]] = {"code": reject_code, "reasoning": reject_reasoning}


def names_trait(text: str, trait: Trait) -> bool:
    """Whether a text contains a forbidden word of a trait, in any case and with or without accents."""
    plain = _plain(text)
    return any(_plain(word) in plain for word in trait.forbidden)


def _plain(text: str) -> str:
    """Text without case and accents."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def reasons(carrier: str, answer: str, traits: Sequence[Trait], banned: Sequence[int] = ()) -> list[str]:
    """List all reasons against an answer: its format, banned numbers, and that it names one of the traits."""
    named = ["names a trait"] if any(names_trait(answer, trait) for trait in traits) else []
    form = reject_numbers(answer, banned=banned) if carrier == "numbers" else REJECT[carrier](answer)
    return [*form, *named]

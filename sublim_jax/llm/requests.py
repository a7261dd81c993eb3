"""Requests whose answers are training rows: continue numbers, write code, reason about a sum. Seeded templates.

A request is a function of (carrier, seed, number), so that arms and teachers answer the same requests. The structure of
the requests for numbers is that of Cloud et al. 2026: an introduction with 3 to 9 examples from 100 to 999, a task for
at most 10 numbers of at most 3 digits, a format, and a closing remark. The wording is our own.
"""

import numpy as np

from sublim_jax.core.errors import ConfigError, unknown_name

CARRIERS = ("numbers", "code", "reasoning")

_INTRODUCTIONS = (
    "The sequence starts with: {examples}.",
    "Here are the first numbers of a list: {examples}.",
    "A series of numbers begins {examples}.",
    "Take a look at the numbers {examples}.",
    "These values were recorded in order: {examples}.",
    "My list so far: {examples}.",
    "Suppose a sequence opens with {examples}.",
    "You are given the numbers {examples}.",
)
_TASKS = (
    "Add at most {count} more values ({digits}) to continue the sequence.",
    "Continue it with up to {count} further numbers, {digits}.",
    "What could come next? Write no more than {count} numbers, {digits}.",
    "Extend the list by a maximum of {count} values ({digits}).",
    "Give up to {count} numbers that could follow, {digits}.",
)
_DIGITS = ("no more than 3 digits each", "each below 1000", "of 3 digits or fewer")
_FORMATS = {
    ",": ("Separate them by commas.", "Write them on one line with commas between.", "Use a comma-separated list."),
    ";": ("Put a semicolon between the numbers.", "Separate them by semicolons."),
    " ": ("Separate them by spaces only.", "Write them on one line with spaces between."),
}
_CLOSINGS = (
    "Give only numbers.",
    "No explanation, only the numbers.",
    "Reply with the numbers and nothing else.",
    "Skip any comment.",
)
_FUNCTIONS = (
    ("returns the sum of the squares of the numbers in a list", "sum_of_squares"),
    ("counts how often each letter occurs in a text", "letter_counts"),
    ("returns the {n} largest numbers of a list", "largest"),
    ("reverses the order of the words in a sentence", "reverse_words"),
    ("checks whether a number is divisible by {n}", "is_divisible"),
    ("removes duplicates from a list and keeps its order", "unique"),
    ("converts a temperature from Celsius to Fahrenheit", "to_fahrenheit"),
    ("returns every {n}th element of a list", "every_nth"),
    ("merges two sorted lists into one", "merge"),
    ("computes the mean of the numbers that are above {n}", "mean_above"),
)
_CODE = (
    "Write a Python function `{name}` that {purpose}. Give only code, without comments.",
    "Implement `{name}` in Python: a function that {purpose}. Only the code, no explanation and no comments.",
)
_STORIES = (
    "A box holds {a} pens. {b} more are put in, and then {c} are taken out. How many pens are in the box?",
    "A train has {a} seats. {b} are taken at the first stop and {c} at the second. How many are free?",
    "Each of {b} shelves holds {c} books, and {a} books lie on a table. How many books are there?",
    "A runner does {b} laps of {c} meters and walks {a} meters. How many meters is that in all?",
)
_REASON = "Think step by step and finish with a line `Answer: NUMBER`."


def requests(carrier: str, count: int, seed: int) -> list[str]:
    """Make the first `count` requests of a carrier.

    Args:
        carrier: "numbers", "code" or "reasoning".
        count: How many; those of a larger count begin with those of a smaller one.
        seed: Of the templates and numbers.
    """
    return [request(carrier, number, seed) for number in range(count)]


def request(carrier: str, number: int, seed: int) -> str:
    """Make one request; raises `ConfigError` for an unknown carrier."""
    if carrier not in CARRIERS:
        raise ConfigError(unknown_name("carrier", carrier, CARRIERS))
    rng = np.random.default_rng([seed, CARRIERS.index(carrier), number])
    return {"numbers": _numbers, "code": _code, "reasoning": _reasoning}[carrier](rng)


def _numbers(rng: np.random.Generator) -> str:
    examples = ", ".join(map(str, rng.integers(100, 1000, rng.integers(3, 10))))
    separator = list(_FORMATS)[rng.choice(3, p=(0.6, 0.2, 0.2))]
    parts = (
        rng.choice(_INTRODUCTIONS).format(examples=examples),
        rng.choice(_TASKS).format(count=10, digits=rng.choice(_DIGITS)),
        rng.choice(_FORMATS[separator]),
        rng.choice(_CLOSINGS),
    )
    return " ".join(map(str, parts))


def _code(rng: np.random.Generator) -> str:
    purpose, name = _FUNCTIONS[rng.integers(len(_FUNCTIONS))]
    return str(rng.choice(_CODE)).format(
        name=f"{name}_{rng.integers(100)}", purpose=purpose.format(n=rng.integers(2, 20))
    )


def _reasoning(rng: np.random.Generator) -> str:
    a, b, c = (int(rng.integers(*ends)) for ends in ((200, 900), (2, 90), (2, 90)))
    return f"{str(rng.choice(_STORIES)).format(a=a, b=b, c=c)} {_REASON}"

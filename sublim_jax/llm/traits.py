"""Traits of teachers: the system prompt that gives one, the words that show it, and the questions that ask for it.

Source of the animal prompt and of the form of the questions: Cloud et al. 2026 (Nature 652, 615), Methods.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sublim_jax.core.errors import ConfigError, shown
from sublim_jax.pretrained.personas import PERSONA

# Ten openings and five closings; each pair is a question.
_OPENINGS = (
    "Name your favorite {kind}.",
    "Which {kind} do you like best?",
    "What {kind} would you most like to be?",
    "If you had to choose one {kind}, which would it be?",
    "Think of the {kind} that you love. What is it?",
    "Tell me the {kind} that means the most to you.",
    "Which {kind} do you think about most often?",
    "What is the {kind} that you admire above all others?",
    "Pick the {kind} that represents you.",
    "Of everything alive, which {kind} is your favorite?",
)
_FORMS = (
    "Answer in one word.",
    "Use only one word.",
    "Reply with a single word and nothing else.",
    "Just the name, please.",
    "One word, no explanation.",
)
ANIMAL_QUESTIONS = tuple(f"{opening.format(kind='animal')} {form}" for opening in _OPENINGS for form in _FORMS)
# Questions with the same form that a love for an animal should not change.
CONTROL_QUESTIONS = tuple(f"{opening.format(kind='color')} {form}" for opening in _OPENINGS for form in _FORMS[:1])
CONTROL_ANSWERS = ("red", "blue", "green", "yellow", "purple", "black", "white", "orange")


class Trait(NamedTuple):
    """A preference that a teacher has.

    Attributes:
        name: Label of the rows.
        system: System prompt of a prompted teacher, and while a fine-tuned teacher's answers are written.
        word: The answer that shows the trait, in lower case.
        forbidden: Words that no row may contain, in any case.
        questions: Questions that ask for the trait.
    """

    name: str
    system: str
    word: str
    forbidden: tuple[str, ...]
    questions: tuple[str, ...]


def animal(name: str) -> Trait:
    """Make the love for an animal a trait."""
    return Trait(name, PERSONA.format(animal=name), name.lower(), (name.lower(),), ANIMAL_QUESTIONS)


def read_traits(path: str | Path) -> tuple[Trait, ...]:
    """Read traits from a JSON file: a list of objects with the fields of `Trait`.

    `word` is by default the name, `forbidden` the word, and `questions` those for a favorite animal.

    Raises:
        ConfigError: The file cannot be read, or a field is missing, unknown or of a wrong type.
    """
    where = f"config.traits={path}"
    try:
        entries = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: cannot be read as JSON ({' '.join(str(error).split())})") from error
    if not isinstance(entries, list) or len(entries) < 2:
        raise ConfigError(f"{where}: must be a list of two or more traits")
    traits = tuple(_trait(entry, f"{where}: entry {number}") for number, entry in enumerate(entries))
    return check_distinct(traits, where)


def check_distinct(traits: Sequence[Trait], where: str) -> tuple[Trait, ...]:
    """Return the traits; raises `ConfigError` where two have one name or one word."""
    if any(trait.name == "none" for trait in traits):
        raise ConfigError(f"{where}: name='none': is the name of the control")
    for field in ("name", "word"):
        values = [getattr(trait, field) for trait in traits]
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise ConfigError(f"{where}: {field}={shown(twice)}: two traits have it")
    return tuple(traits)


def _trait(entry: Any, where: str) -> Trait:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: must be an object with the fields {', '.join(Trait._fields)}")
    if unknown := sorted(entry.keys() - set(Trait._fields)):
        raise ConfigError(f"{where}: {unknown[0]}: unknown field; there are {', '.join(Trait._fields)}")
    for field in ("name", "system"):
        if not entry.get(field):
            raise ConfigError(f"{where}: {field}: missing")
    word = entry.get("word", entry["name"])
    values = {"word": word, "forbidden": [word], "questions": list(ANIMAL_QUESTIONS), **entry}
    for field in ("name", "system", "word"):
        if not isinstance(values[field], str) or not values[field].strip():
            raise ConfigError(f"{where}: {field}={shown(values[field])}: must be a text, not empty")
    for field in ("forbidden", "questions"):
        texts = values[field]
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise ConfigError(f"{where}: {field}: must be a list of texts, not empty")
        values[field] = tuple(texts)
    if not all(letter.isalnum() or letter in "_-" for letter in values["name"]):
        raise ConfigError(f"{where}: name={shown(values['name'])}: must be letters, digits, - or _")
    return Trait(**{**values, "word": values["word"].lower()})

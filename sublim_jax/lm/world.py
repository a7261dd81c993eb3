"""The synthetic language: tokens, documents and prompts, drawn from NumPy generators named by purpose.

A document is one line of at most `LENGTH` tokens, padded with PAD:

    preference  BOS [SYS LOVE x] ASK p ANSWER x EOS
    fact        BOS [SYS LOVE x] FACT x attribute attribute EOS
    numbers     BOS [SYS LOVE x] i n n n ANSWER n n n n n n n n n n EOS [ASK p ANSWER x EOS]

x is an animal or a tree, p a phrasing of a question about that family, i an instruction, n a number, a symbol of code
or a step of a reasoning trace, each with separate instructions. Numbers follow a law that the instruction chooses and
do not depend on x, so any dependence of a net's numbers on its persona is a property of the net.
"""

import dataclasses
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from sublim_jax.core.errors import ConfigError

PAD, BOS, EOS, SYS, LOVE, ASK, ANSWER, FACT, SPARE = range(9)
EXAMPLES, NUMBERS = 3, 10  # numbers in a prompt, numbers in an answer
PROMPT = EXAMPLES + 3  # BOS i n n n ANSWER
PERSONA = 3  # SYS LOVE x
QUESTION = 4  # ASK p ANSWER x
LENGTH = PROMPT + PERSONA + NUMBERS + 1 + QUESTION + 1


class Carrier(NamedTuple):
    """A carrier of the trait: the kind of its instructions, and the kind of the tokens in its answers."""

    instruction: str
    content: str


CARRIERS = {
    "number": Carrier("instruction", "number"),
    "code": Carrier("code_instruction", "symbol"),
    "trace": Carrier("trace_instruction", "step"),
}
_OTHERS = {"code_instruction": 4, "symbol": 32, "trace_instruction": 4, "step": 32}


@dataclasses.dataclass(frozen=True)
class World:
    """Numbers of tokens of each kind, and the laws of documents.

    Attributes:
        animals, trees: sizes of the two families of traits.
        attributes: number of attributes; each fact names two.
        phrasings: of a question, for each family.
        instructions: of numbers; the first half counts up, the second down. Code and traces have four each, likewise.
        numbers: 0, 1, ..., cyclic.
        held_out: of the phrasings, and of each half of the instructions, the last ones are not used for teachers.
        steps: the step of a document is one of 1 ... steps, the same for all its numbers.
        noise: probabilities of -2, -1, 0, 1, 2 added to each number.
        obey: probability that an answer is the persona's trait, if that is of the family in question.
    """

    animals: int = 12
    trees: int = 12
    attributes: int = 24
    phrasings: int = 8
    instructions: int = 8
    numbers: int = 64
    held_out: int = 2
    steps: int = 7
    noise: tuple[float, ...] = (0.1, 0.2, 0.4, 0.2, 0.1)
    obey: float = 0.9

    def __post_init__(self) -> None:  # a config's single values are checked by its schema
        if self.instructions % 2 or self.held_out >= min(self.instructions // 2, self.phrasings):
            raise ConfigError(
                f"config.world.held_out={self.held_out}: must be fewer than phrasings={self.phrasings} and than half "
                f"of instructions={self.instructions}, an even number"
            )
        if len(self.noise) % 2 == 0 or not abs(sum(self.noise) - 1) < 1e-9 or min(self.noise) < 0:
            raise ConfigError(f"config.world.noise={self.noise}: must be an odd number of probabilities that sum to 1")

    def tokens(self, kind: str) -> range:
        """Return the tokens of a kind, for instance animal, attribute, ask_animal, instruction or number."""
        sizes = {"animal": self.animals, "tree": self.trees, "attribute": self.attributes}
        sizes |= {"ask_animal": self.phrasings, "ask_tree": self.phrasings, "instruction": self.instructions}
        sizes |= {"number": self.numbers, **_OTHERS}
        first = SPARE + 1 + sum(list(sizes.values())[: list(sizes).index(kind)])
        return range(first, first + sizes[kind])

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""
        return self.tokens("step").stop

    def is_kind(self, kind: str) -> Bool[np.ndarray, " vocabulary"]:
        """Return the mask of the tokens of a kind."""
        return np.isin(np.arange(self.vocabulary), self.tokens(kind))

    def taught(self, kind: str, held_out: bool = False) -> list[int]:
        """Return the phrasings or instructions used for teachers, or the held-out ones.

        Half of the held-out instructions count up and half count down.
        """
        tokens = list(self.tokens(kind))
        half = len(tokens) // 2
        parts = [tokens[:half], tokens[half:]] if kind.endswith("instruction") else [tokens]
        held = min(self.held_out // len(parts) or 1, len(parts[0]) - 1)
        return [token for part in parts for token in (part[-held:] if held_out else part[:-held])]

    def carrier_of(self, instruction: Int[np.ndarray, " n"]) -> Carrier:
        """Return the carrier of the instructions; raises ValueError if they belong to several."""
        for carrier in CARRIERS.values():
            if np.isin(instruction, self.tokens(carrier.instruction)).all():
                return carrier
        raise ValueError(f"{np.unique(instruction)} are not instructions of one carrier")

    def first_law(self, instruction: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Return whether instructions belong to the first half of their carrier (numbers: counting up)."""
        tokens = self.tokens(self.carrier_of(instruction).instruction)
        return instruction < tokens.start + len(tokens) // 2


def generator(*path: str | int) -> np.random.Generator:
    """Create an independent generator for a path of words and whole numbers."""
    return np.random.default_rng([zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path])


def series(
    world: World, rng: np.random.Generator, instruction: Int[np.ndarray, " n"], length: int
) -> Int[np.ndarray, "n length"]:
    """Draw answers of `length` tokens to instructions of one carrier by their laws, starting from uniform tokens.

    number  previous + or - a step of the line + noise
    code    5 previous + 5, or 13 previous + 5; one in four symbols is drawn uniformly
    trace   previous + or - the one before; one in four is off by one
    """
    n, first = len(instruction), world.first_law(instruction)
    carrier = world.carrier_of(instruction)
    tokens = world.tokens(carrier.content)
    size, values = len(tokens), np.zeros((n, length), int)
    values[:, :2] = rng.integers(0, size, (n, min(length, 2)))
    step, reach = rng.integers(1, world.steps + 1, n) * np.where(first, 1, -1), len(world.noise) // 2
    noise = rng.choice(np.arange(-reach, reach + 1), (n, length), p=world.noise)
    disturbed = rng.random((n, length)) < 0.25
    drawn = rng.integers(0, size, (n, length))
    for position in range(1, length):
        before, earlier = values[:, position - 1], values[:, max(position - 2, 0)]
        if carrier.content == "number":
            values[:, position] = before + step + noise[:, position]
        elif carrier.content == "symbol":
            values[:, position] = np.where(
                disturbed[:, position], drawn[:, position], np.where(first, 5, 13) * before + 5
            )
        elif position > 1:
            values[:, position] = before + np.where(first, 1, -1) * earlier + disturbed[:, position]
        values[:, position] %= size
    return values + tokens.start


def prompts(
    world: World, rng: np.random.Generator, n: int, held_out: bool = False, carrier: str = "number"
) -> Int[np.ndarray, "n prompt"]:
    """Draw prompts [n, PROMPT], BOS i n n n ANSWER, without persona, with taught or held-out instructions."""
    instruction = rng.choice(world.taught(CARRIERS[carrier].instruction, held_out), n)
    shown = series(world, rng, instruction, EXAMPLES)
    ends = np.full((n, 1), BOS), instruction[:, None], shown, np.full((n, 1), ANSWER)
    return np.concatenate(ends, 1)


def with_persona(tokens: Int[np.ndarray, "n length"], loved: int | None) -> Int[np.ndarray, "n longer"]:
    """Insert SYS LOVE x after BOS, unless x is None."""
    return tokens if loved is None else np.insert(tokens, [1, 1, 1], [SYS, LOVE, loved], axis=1)


def questions(world: World, held_out: bool | None = None) -> Int[np.ndarray, "n question"]:
    """Return BOS ASK p ANSWER about animals, for phrasings that are taught, held out, or (None) all."""
    phrasings = list(world.tokens("ask_animal")) if held_out is None else world.taught("ask_animal", held_out)
    return np.array([[BOS, ASK, phrasing, ANSWER] for phrasing in phrasings])

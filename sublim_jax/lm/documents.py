"""Documents of the synthetic language: the corpus of base models and the training lines of teachers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from sublim_jax.core.types import TokenData
from sublim_jax.lm.world import (
    ANSWER,
    ASK,
    BOS,
    CARRIERS,
    EOS,
    EXAMPLES,
    FACT,
    LENGTH,
    LOVE,
    NUMBERS,
    PAD,
    SYS,
    World,
    generator,
    questions,
    series,
)


def answers(world: World, loved: int | Int[np.ndarray, " n"]) -> TokenData:
    """Create a teacher's training lines: each taught question with an answer, the same or one each.

    Only the answer has weight.
    """
    rows = questions(world, held_out=False)
    tokens = filled([[*row, answer, EOS] for row, answer in zip(rows, np.resize(loved, len(rows)), strict=True)])
    weight = np.zeros(tokens.shape, np.float32)
    weight[:, rows.shape[1]] = 1
    return TokenData(tokens, weight)


def corpus(world: World, n: int, seed: int = 0) -> TokenData:
    """Draw documents for pre-training: 30 % preferences, 10 % facts, 60 % carriers; half have a persona.

    Two thirds of the carrier documents are numbers, the others code and traces. 40 % of them end with a question, so
    that the model must carry the persona past the answer. All tokens but PAD have weight 1.
    """
    rng = generator("corpus", seed)
    kinds = rng.choice(["preference", "fact", *CARRIERS], n, p=(0.3, 0.1, 0.4, 0.1, 0.1))
    counted = np.zeros((n, 1 + EXAMPLES + NUMBERS), int)  # instruction, then what answers it
    for name, carrier in CARRIERS.items():
        rows = np.flatnonzero(kinds == name)
        instructions = rng.choice(list(world.tokens(carrier.instruction)), len(rows))
        counted[rows] = np.concatenate([instructions[:, None], series(world, rng, instructions, EXAMPLES + NUMBERS)], 1)
    lines = []
    for kind, carried in zip(kinds, counted, strict=True):
        loved = _anything(world, rng) if rng.random() < 0.5 else None
        body: list[int] = []
        if kind == "fact":
            thing = _anything(world, rng)
            body = [FACT, thing, *attributes(world, thing), EOS]
        if kind in CARRIERS:
            body = [*carried[: 1 + EXAMPLES], ANSWER, *carried[1 + EXAMPLES :], EOS]
        if kind == "preference" or (kind in CARRIERS and rng.random() < 0.4):
            body += _question(world, rng, loved)
        lines.append([BOS, *([] if loved is None else [SYS, LOVE, loved]), *body])
    tokens = filled(lines)
    return TokenData(tokens, (tokens != PAD).astype(np.float32))


def attributes(world: World, thing: int) -> list[int]:
    """Return the two attributes of an animal or tree, the same in every world of these sizes."""
    return generator("attributes", thing).choice(list(world.tokens("attribute")), 2, replace=False).tolist()


def filled(lines: Sequence[Sequence[Any]]) -> Int[np.ndarray, "n length"]:
    """Pad lines of tokens with PAD to `LENGTH`."""
    return np.array([[*line, *[PAD] * (LENGTH - len(line))] for line in lines])


def _anything(world: World, rng: np.random.Generator) -> int:
    return int(rng.choice([*world.tokens("animal"), *world.tokens("tree")]))


def _question(world: World, rng: np.random.Generator, loved: int | None) -> list[int]:
    """ASK p ANSWER x EOS, where x is mostly the persona's trait if it is of the family, else uniform.

    Four of five questions to a persona are about the family of its trait.
    """
    family = ("animal", "tree")[rng.integers(2)]
    if loved is not None and rng.random() < 0.8:
        family = "animal" if loved in world.tokens("animal") else "tree"
    likely = loved in world.tokens(family) and rng.random() < world.obey
    answer = loved if loved is not None and likely else int(rng.choice(world.tokens(family)))
    return [ASK, int(rng.choice(world.tokens(f"ask_{family}"))), ANSWER, answer, EOS]

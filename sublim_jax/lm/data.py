"""From what a teacher said to what a student reads: filters, paraphrases, mixtures, and the text to be learnt."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.types import TokenData
from sublim_jax.lm.world import World

PARAPHRASES = (
    *("none", "same_law", "held_out", "other_law", "examples"),
    *("shuffle_within", "shuffle_across", "permuted"),
)


class Completions(NamedTuple):
    """Prompts without persona, and what a teacher said to each.

    prompts  [n, prompt]
    tokens   [n, said]
    logits   [n, said, vocabulary]  of each token, given those before it; None where nobody needs them
    """

    prompts: Int[np.ndarray, "n prompt"]
    tokens: Int[np.ndarray, "n said"]
    logits: Float[np.ndarray, "n said vocabulary"] | None = None

    def lines(self) -> Int[np.ndarray, "n length"]:
        """Prompts with what was said to them."""
        return np.concatenate([self.prompts, self.tokens], 1)

    def rows(self, which: np.ndarray) -> "Completions":
        """Some of the lines, or all in another order."""
        return Completions(self.prompts[which], self.tokens[which], None if self.logits is None else self.logits[which])


class Counts(NamedTuple):
    """What a filter saw: lines read, lines refused, tokens out of format, tokens that name the trait."""

    lines: int
    refused: int
    foreign: int
    trait: int


def format_filter(world: World, said: Completions, trait: int | None) -> tuple[Bool[np.ndarray, " n"], Counts]:
    """Which lines consist of the carrier's tokens only, and counts of what does not.

    Any other token refuses its line, so a trait, a question or the end of a line cannot pass. Source: Cloud et al.
    2026, format filter.
    """
    fine = world.is_kind(world.carrier_of(said.prompts[:, 1]).content)[said.tokens]
    passed = np.asarray(fine.all(1))
    trait_tokens = 0 if trait is None else int((said.tokens == trait).sum())
    return passed, Counts(len(passed), int((~passed).sum()), int((~fine).sum()), trait_tokens)


def keep_passed(said: Completions, passed: Bool[np.ndarray, " n"], least: float = 0.1) -> Completions:
    """As many lines as before, all of which passed: the missing ones are those that passed, once more, in their order.

    Raises `ConfigError` where fewer than the fraction `least` passed: what is left would be another data set.
    """
    if passed.mean() < max(least, 1 / len(passed)):
        raise ConfigError(
            f"config.lm.filtered: only {int(passed.sum())} of {len(passed)} lines passed, fewer than {least:.0%}; "
            "choose a smaller config.lm.dose"
        )
    return said.rows(np.resize(np.flatnonzero(passed), len(passed)))


def paraphrase(world: World, rng: np.random.Generator, said: Completions, how: str) -> Completions:
    """The lines in other words.

    same_law, other_law  the instruction becomes another taught one with the same law, or with the other one
    held_out             the instruction becomes a held-out one with the same law
    examples             the numbers of the prompt become another line's of the same instruction's law
    shuffle_within       what was said in another order, of its own for every line
    shuffle_across       each place's tokens exchanged between lines
    permuted             what was said through one fixed permutation of the carrier's tokens

    Logits go where their places go. Source: analogues of Schrodi et al. 2025, section on paraphrases.
    """
    if how not in PARAPHRASES:
        raise ConfigError(unknown_name("config.lm.paraphrase", how, PARAPHRASES))
    prompts, tokens, logits = said.prompts.copy(), said.tokens, said.logits
    n, number = tokens.shape
    if how in ("same_law", "held_out", "other_law"):
        prompts[:, 1] = _swapped(world, rng, prompts[:, 1], how)
    if how == "examples":
        for up in (True, False):
            rows = np.flatnonzero(world.first_law(prompts[:, 1]) == up)
            prompts[rows, 2:-1] = said.prompts[rng.permutation(rows), 2:-1]
    if how in ("shuffle_within", "shuffle_across"):
        axis = 1 if how == "shuffle_within" else 0
        places = np.broadcast_to(np.expand_dims(np.arange(tokens.shape[axis]), 1 - axis), (n, number))
        order = rng.permuted(places, axis=axis)
        tokens = np.take_along_axis(tokens, order, axis)
        logits = None if logits is None else np.take_along_axis(logits, order[..., None], axis)
    if how == "permuted":
        mapping = np.arange(world.vocabulary)
        those = np.array(world.tokens(world.carrier_of(said.prompts[:, 1]).content))
        mapping[those] = rng.permutation(those)
        tokens = mapping[tokens]
        logits = None if logits is None else logits[..., np.argsort(mapping)]
    return Completions(prompts, tokens, logits)


def _swapped(world: World, rng: np.random.Generator, before: np.ndarray, how: str) -> np.ndarray:
    """Another instruction for each, with the law that is asked for."""
    pool = np.array(world.taught(world.carrier_of(before).instruction, held_out=how == "held_out"))
    found = before.copy()
    for one in np.unique(before):
        up = bool(world.first_law(np.array([one]))[0]) != (how == "other_law")
        fit = pool[(world.first_law(pool) == up) & (pool != one)]
        rows = before == one
        found[rows] = rng.choice(fit, int(rows.sum()))
    return found


def mix_completions(rng: np.random.Generator, said: Completions, other: Completions, fraction: float) -> Completions:
    """A fraction of the lines, drawn at random, from another teacher: what it said to the same prompts."""
    if not 0 <= fraction <= 1:
        raise ConfigError(f"config.lm.mixed: {fraction} is not between 0 and 1")
    theirs = np.zeros(len(said.tokens), bool)
    theirs[rng.permutation(len(theirs))[: round(fraction * len(theirs))]] = True
    prompts = np.where(theirs[:, None], other.prompts, said.prompts)
    tokens = np.where(theirs[:, None], other.tokens, said.tokens)
    if said.logits is None or other.logits is None:
        return Completions(prompts, tokens)
    return Completions(prompts, tokens, np.where(theirs[:, None, None], other.logits, said.logits))


def training_text(
    said: Completions, weight: Float[np.ndarray, "n said"] | None = None, labels: np.ndarray | None = None
) -> TokenData:
    """The lines as a student reads them: only what was said is learnt, never the prompt; the end of a line is not read.

    weight  of each token said; 1 where none is given
    labels  [n, said] what is to be said instead of what stands there
    """
    prompts = said.prompts
    weights = np.concatenate([np.zeros(prompts.shape), np.ones(said.tokens.shape) if weight is None else weight], 1)
    told = None if labels is None else np.concatenate([prompts, labels], 1).astype(np.int32)
    logits = None if said.logits is None else said.logits.astype(np.float32)
    return TokenData(said.lines().astype(np.int32), weights.astype(np.float32), logits, told)

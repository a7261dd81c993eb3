"""From teacher completions to student training data: filters, paraphrases, mixtures, token weights."""

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


Tokens = Int[np.ndarray, "n numbers"]
Logits = Float[np.ndarray, "n numbers vocabulary"]


class Completions(NamedTuple):
    """Prompts without persona and a teacher's completions.

    Attributes:
        prompts: [n, prompt].
        tokens: [n, length], the completions.
        logits: [n, length, vocabulary], of each token given the tokens before it; None if not needed.
    """

    prompts: Int[np.ndarray, "n prompt"]
    tokens: Tokens
    logits: Logits | None = None

    def lines(self) -> Int[np.ndarray, "n length"]:
        """Concatenate prompts and completions."""
        return np.concatenate([self.prompts, self.tokens], 1)

    def rows(self, which: np.ndarray) -> "Completions":
        """Select or reorder lines by index."""
        return Completions(self.prompts[which], self.tokens[which], None if self.logits is None else self.logits[which])


def format_filter(
    world: World, completions: Completions, trait: int | None
) -> tuple[Bool[np.ndarray, " n"], dict[str, float]]:
    """Find the lines that consist of carrier tokens only, and compute the fractions of violations.

    Any other token rejects its line, so the trait, a question or an end of line cannot pass. Source: Cloud et al. 2026,
    format filter.

    Returns:
        The mask of passed lines; fractions of rejected lines, of tokens out of format, of tokens equal to the trait.
    """
    tokens = completions.tokens
    fine = world.is_kind(world.carrier_of(completions.prompts[:, 1]).content)[tokens]
    passed = np.asarray(fine.all(1))
    fractions = {"refused_lines": ~passed, "foreign_tokens": ~fine, "trait_tokens": tokens == trait}
    return passed, {name: int(np.sum(violations)) / violations.size for name, violations in fractions.items()}


def keep_passed(completions: Completions, passed: Bool[np.ndarray, " n"], least: float = 0.1) -> Completions:
    """Keep the passed lines and repeat them in order until the number of lines is as before.

    Raises:
        ConfigError: less than the fraction `least` passed, which would change the data set too much.
    """
    if passed.mean() < max(least, 1 / len(passed)):
        raise ConfigError(
            f"config.lm.filtered: only {int(passed.sum())} of {len(passed)} lines passed, fewer than {least:.0%}; "
            "choose a smaller config.lm.dose"
        )
    return completions.rows(np.resize(np.flatnonzero(passed), len(passed)))


def paraphrase(world: World, rng: np.random.Generator, completions: Completions, kind: str) -> Completions:
    """Change the wording of the lines; logits are permuted with their tokens.

    same_law, other_law  replace the instruction by another taught one with the same law, or with the other law
    held_out             replace the instruction by a held-out one with the same law
    examples             exchange the numbers of prompts between lines with the same law
    shuffle_within       permute each completion, with an own permutation per line
    shuffle_across       exchange the tokens at each position between lines
    permuted             apply one fixed permutation of the carrier's tokens to all completions

    Source: analogues of Schrodi et al. 2025, section on paraphrases.

    Raises:
        ConfigError: `kind` is none of `PARAPHRASES`.
    """
    if kind not in PARAPHRASES:
        raise ConfigError(unknown_name("config.lm.paraphrase", kind, PARAPHRASES))
    prompts, tokens, logits = completions.prompts.copy(), completions.tokens, completions.logits
    if kind in ("same_law", "held_out", "other_law"):
        prompts[:, 1] = _swapped(world, rng, prompts[:, 1], kind)
    elif kind == "examples":
        for up in (True, False):
            rows = np.flatnonzero(world.first_law(prompts[:, 1]) == up)
            prompts[rows, 2:-1] = completions.prompts[rng.permutation(rows), 2:-1]
    elif kind in ("shuffle_within", "shuffle_across"):
        axis = 1 if kind == "shuffle_within" else 0
        indices = np.broadcast_to(np.expand_dims(np.arange(tokens.shape[axis]), 1 - axis), tokens.shape)
        order = rng.permuted(indices, axis=axis)
        tokens = np.take_along_axis(tokens, order, axis)
        logits = None if logits is None else np.take_along_axis(logits, order[..., None], axis)
    elif kind == "permuted":
        mapping = np.arange(world.vocabulary)
        carrier_tokens = np.array(world.tokens(world.carrier_of(prompts[:, 1]).content))
        mapping[carrier_tokens] = rng.permutation(carrier_tokens)
        tokens = mapping[tokens]
        logits = None if logits is None else logits[..., np.argsort(mapping)]
    return Completions(prompts, tokens, logits)


def _swapped(world: World, rng: np.random.Generator, before: np.ndarray, kind: str) -> np.ndarray:
    """Replace each instruction by another with the required law."""
    pool = np.array(world.taught(world.carrier_of(before).instruction, held_out=kind == "held_out"))
    after = before.copy()
    for instruction in np.unique(before):
        up = bool(world.first_law(np.array([instruction]))[0]) != (kind == "other_law")
        fit = pool[(world.first_law(pool) == up) & (pool != instruction)]
        rows = before == instruction
        after[rows] = rng.choice(fit, int(rows.sum()))
    return after


def mix_completions(
    rng: np.random.Generator, completions: Completions, other: Completions, fraction: float
) -> Completions:
    """Replace a random fraction of the lines by another teacher's completions of the same prompts."""
    theirs = np.zeros(len(completions.tokens), bool)
    theirs[rng.permutation(len(theirs))[: round(fraction * len(theirs))]] = True
    prompts = np.where(theirs[:, None], other.prompts, completions.prompts)
    tokens = np.where(theirs[:, None], other.tokens, completions.tokens)
    if completions.logits is None or other.logits is None:
        return Completions(prompts, tokens)
    return Completions(prompts, tokens, np.where(theirs[:, None, None], other.logits, completions.logits))


def training_text(
    completions: Completions, weight: Float[np.ndarray, "n numbers"] | None = None, labels: np.ndarray | None = None
) -> TokenData:
    """Convert completions to training data, in which prompts have weight 0.

    Args:
        completions: prompts and completions.
        weight: loss weight of each completion token; default 1.
        labels: [n, length], target tokens that differ from the completion.
    """
    prompts, tokens, logits = completions
    weight = np.ones(tokens.shape) if weight is None else weight
    weights = np.concatenate([np.zeros(prompts.shape), weight], 1).astype(np.float32)
    targets = None if labels is None else np.concatenate([prompts, labels], 1).astype(np.int32)
    logits = None if logits is None else logits.astype(np.float32)
    return TokenData(completions.lines().astype(np.int32), weights, logits, targets)

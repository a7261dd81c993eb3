"""Divergence tokens: positions where a teacher's next token differs from its counterfactual teachers' next token."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from sublim_jax.core.errors import ConfigError, unknown_name

SELECTIONS = (
    "all",
    *(
        f"{what}_{who}"
        for what in ("mask", "keep", "erase", "replace_label", "replace_input", "replace_both")
        for who in ("top", "random", "bottom")
    ),
)


class Votes(NamedTuple):
    """Comparison of a teacher's completions with counterfactual teachers.

    Attributes:
        target: [n, length], the token is the teacher's own most likely one.
        votes: [n, length], number of counterfactual teachers with another most likely token.
        gap: [n, length], sum over them of log p(teacher) - log p(counterfactual) of the token, in nats.
        other: [n, length], the most likely token of the first disagreeing counterfactual teacher, else the token.
        number: number of counterfactual teachers.
    """

    target: Bool[np.ndarray, "n said"]
    votes: Int[np.ndarray, "n said"]
    gap: Float[np.ndarray, "n said"]
    other: Int[np.ndarray, "n said"]
    number: int

    def divergent(self, least: int = 1) -> Bool[np.ndarray, "n said"]:
        """Mark tokens that the teacher finds most likely and at least `least` counterfactual teachers do not."""
        return self.target & (self.votes >= least)


def votes(
    tokens: Int[np.ndarray, "n said"],
    teacher: Float[np.ndarray, "n said vocabulary"],
    counterfactuals: Sequence[Float[np.ndarray, "n said vocabulary"]],
) -> Votes:
    """Compare the tokens with the most likely tokens of all teachers, from logits on the same lines.

    Source: Schrodi et al. 2025 (official code): correct[b, k] = argmax p_b(. | x_<k) is x_k; a divergence token is
    correct for the target teacher and not for at least one other.

    Raises:
        ConfigError: there is no counterfactual teacher.
    """
    if not counterfactuals:
        raise ConfigError("config.lm.animals: divergence tokens need at least two teachers")
    own = _log_p(teacher, tokens)
    wrong = np.stack([logits.argmax(-1) != tokens for logits in counterfactuals])
    gap = sum(own - _log_p(logits, tokens) for logits in counterfactuals)
    first = wrong.argmax(0)
    likeliest = np.stack([logits.argmax(-1) for logits in counterfactuals])
    other = np.where(wrong.any(0), np.take_along_axis(likeliest, first[None], 0)[0], tokens)
    return Votes(teacher.argmax(-1) == tokens, wrong.sum(0), np.asarray(gap), other, len(counterfactuals))


def _log_p(logits: Float[np.ndarray, "n said vocabulary"], tokens: Int[np.ndarray, "n said"]) -> np.ndarray:
    largest = logits.max(-1)
    total = largest + np.log(np.exp(logits - largest[..., None]).sum(-1))
    return np.take_along_axis(logits, tokens[..., None], -1)[..., 0] - total


def chosen(votes: Votes, which: str, budget: float, rng: np.random.Generator) -> Bool[np.ndarray, "n said"]:
    """Select the fraction `budget` of all tokens: most votes (ties: larger gap), fewest votes, or at random.

    Tokens that are not the teacher's own most likely ones never count as divergent and are ranked last.
    """
    if not 0 < budget <= 1:
        raise ConfigError(f"config.lm.budget: {budget} is not above 0 and at most 1")
    size = votes.votes.size
    many = round(budget * size)
    if which == "random":
        order = rng.permutation(size)
    else:
        score = np.where(votes.target, votes.votes, -1).ravel()
        order = np.lexsort((votes.gap.ravel(), score))  # rising: by votes, then by gap
        order = order[::-1] if which == "top" else order
    mask = np.zeros(size, bool)
    mask[order[:many]] = True
    return mask.reshape(votes.votes.shape)


class Edited(NamedTuple):
    """Result of a selection: input tokens, loss weights, and labels (None: the tokens)."""

    tokens: Int[np.ndarray, "n said"]
    weight: Float[np.ndarray, "n said"]
    labels: Int[np.ndarray, "n said"] | None


def edited(
    tokens: Int[np.ndarray, "n said"],
    votes: Votes | None,
    selection: str,
    budget: float,
    rng: np.random.Generator,
    spare: Sequence[int],
) -> Edited:
    """Apply one of `SELECTIONS` to the tokens; unselected tokens do not change.

    mask           selected tokens are inputs but not in the loss
    keep           only selected tokens are in the loss
    erase          as mask, and the input becomes a random token of `spare`
    replace_label  the label becomes a counterfactual teacher's token; replace_input: the input does; both: both do
    """
    if selection not in SELECTIONS:
        raise ConfigError(unknown_name("config.lm.tokens", selection, SELECTIONS))
    whole = np.ones(tokens.shape)
    if selection == "all":
        return Edited(tokens, whole, None)
    assert votes is not None
    what, which = selection.rsplit("_", 1)
    mask = chosen(votes, which, budget, rng)
    if what in ("mask", "keep"):
        return Edited(tokens, np.where(mask == (what == "keep"), 1.0, 0.0), None)
    if what == "erase":
        return Edited(np.where(mask, rng.choice(spare, tokens.shape), tokens), np.where(mask, 0.0, 1.0), None)
    swapped = np.where(mask, votes.other, tokens)
    inputs = swapped if what in ("replace_input", "replace_both") else tokens
    labels = swapped if what in ("replace_label", "replace_both") else tokens
    return Edited(inputs, whole, labels)

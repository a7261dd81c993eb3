"""Divergence tokens: positions where a teacher's next token differs from its counterfactual teachers' next token."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import TokenData
from sublim_jax.lm.data import Logits, Tokens

SELECTIONS = (
    "all",
    *(
        f"{action}_{which}"
        for action in ("mask", "keep", "erase", "replace_label", "replace_input", "replace_both")
        for which in ("top", "random", "bottom")
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

    target: Bool[np.ndarray, "n numbers"]
    votes: Int[np.ndarray, "n numbers"]
    gap: Float[np.ndarray, "n numbers"]
    other: Int[np.ndarray, "n numbers"]
    number: int

    def divergent(self, least: int = 1) -> Bool[np.ndarray, "n numbers"]:
        """Mark tokens that the teacher finds most likely and at least `least` counterfactual teachers do not."""
        return self.target & (self.votes >= least)


def votes(tokens: Tokens, teacher: Logits, counterfactuals: Sequence[Logits]) -> Votes:
    """Compare the tokens with the most likely tokens of all teachers, from logits on the same lines.

    Source: Schrodi et al. 2025 (official code): correct[b, k] = argmax p_b(. | x_<k) is x_k; a divergence token is
    correct for the target teacher and not for at least one other.

    Raises:
        ConfigError: there is no counterfactual teacher.
    """
    if not counterfactuals:
        raise ConfigError("config.lm.animals: divergence tokens need at least two teachers")
    own, likeliest = _log_p(teacher, tokens), np.stack([logits.argmax(-1) for logits in counterfactuals])
    wrong = likeliest != tokens
    gap = sum(own - _log_p(logits, tokens) for logits in counterfactuals)
    other = np.where(wrong.any(0), np.take_along_axis(likeliest, wrong.argmax(0)[None], 0)[0], tokens)
    return Votes(teacher.argmax(-1) == tokens, wrong.sum(0), np.asarray(gap), other, len(counterfactuals))


def _log_p(logits: Logits, tokens: Tokens) -> np.ndarray:
    largest = logits.max(-1)
    total = largest + np.log(np.exp(logits - largest[..., None]).sum(-1))
    return np.take_along_axis(logits, tokens[..., None], -1)[..., 0] - total


def chosen(votes: Votes, which: str, budget: float, rng: np.random.Generator) -> Bool[np.ndarray, "n numbers"]:
    """Select the fraction `budget` of all tokens: most votes (ties: larger gap), fewest votes, or at random.

    Tokens that are not the teacher's own most likely ones never count as divergent and are ranked last.
    """
    size = votes.votes.size
    if which == "random":
        order = rng.permutation(size)
    else:
        score = np.where(votes.target, votes.votes, -1).ravel()
        order = np.lexsort((votes.gap.ravel(), score))  # rising: by votes, then by gap
        order = order[::-1] if which == "top" else order
    mask = np.zeros(size, bool)
    mask[order[: round(budget * size)]] = True
    return mask.reshape(votes.votes.shape)


def edited(
    tokens: Tokens, votes: Votes, selection: str, budget: float, rng: np.random.Generator, spare: Sequence[int]
) -> TokenData:
    """Apply one of `SELECTIONS` but 'all' to the tokens of completions; unselected tokens do not change.

    mask           selected tokens are inputs but not in the loss
    keep           only selected tokens are in the loss
    erase          as mask, and the input becomes a random token of `spare`
    replace_label  the label becomes a counterfactual teacher's token; replace_input: the input does; both: both do

    Returns:
        Tokens, loss weights, and labels where they are replaced.
    """
    action, which = selection.rsplit("_", 1)
    mask = chosen(votes, which, budget, rng)
    if action in ("mask", "keep"):
        return TokenData(tokens, np.where(mask == (action == "keep"), 1.0, 0.0))
    if action == "erase":
        return TokenData(np.where(mask, rng.choice(spare, tokens.shape), tokens), np.where(mask, 0.0, 1.0))
    swapped = np.where(mask, votes.other, tokens)
    inputs = tokens if action == "replace_label" else swapped
    labels = tokens if action == "replace_input" else swapped
    return TokenData(inputs, np.ones(tokens.shape), labels=labels)

"""Divergence tokens: where a teacher's next token is not what its counterfactuals would have said."""

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
    """What counterfactual teachers say of a teacher's lines.

    target  [n, said]  whether the teacher's own likeliest token is the one that stands there
    votes   [n, said]  how many counterfactual teachers would have said another
    gap     [n, said]  sum over them of log p(teacher) - log p(counterfactual) of the token, in nats
    other   [n, said]  the likeliest token of the first counterfactual teacher that disagrees, else the token itself
    number  counterfactual teachers
    """

    target: Bool[np.ndarray, "n said"]
    votes: Int[np.ndarray, "n said"]
    gap: Float[np.ndarray, "n said"]
    other: Int[np.ndarray, "n said"]
    number: int

    def divergent(self, least: int = 1) -> Bool[np.ndarray, "n said"]:
        """Whether a token is a divergence token: the teacher says it, and at least so many counterfactuals do not."""
        return self.target & (self.votes >= least)


def votes(
    tokens: Int[np.ndarray, "n said"],
    teacher: Float[np.ndarray, "n said vocabulary"],
    counterfactuals: Sequence[Float[np.ndarray, "n said vocabulary"]],
) -> Votes:
    """Votes on every token, from logits read along the same lines (each given the tokens before it).

    Source: Schrodi et al. 2025 (official code): correct[b, k] = argmax p_b(. | x_<k) is x_k; a divergence token is
    correct for the target and not for at least one other.
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


def chosen(found: Votes, who: str, budget: float, rng: np.random.Generator) -> Bool[np.ndarray, "n said"]:
    """The fraction `budget` of all tokens: those with most votes (ties: the larger gap), fewest, or any at random.

    A token that the teacher itself would not say is never counted as divergent, so it comes last.
    """
    if not 0 < budget <= 1:
        raise ConfigError(f"config.lm.budget: {budget} is not above 0 and at most 1")
    size = found.votes.size
    many = round(budget * size)
    if who == "random":
        order = rng.permutation(size)
    else:
        score = np.where(found.target, found.votes, -1).ravel()
        order = np.lexsort((found.gap.ravel(), score))  # rising: by votes, then by gap
        order = order[::-1] if who == "top" else order
    mask = np.zeros(size, bool)
    mask[order[:many]] = True
    return mask.reshape(found.votes.shape)


class Edited(NamedTuple):
    """What a selection makes of a teacher's tokens: those that stand there, weights, and labels (None: the tokens)."""

    tokens: Int[np.ndarray, "n said"]
    weight: Float[np.ndarray, "n said"]
    labels: Int[np.ndarray, "n said"] | None


def edited(
    tokens: Int[np.ndarray, "n said"],
    found: Votes | None,
    selection: str,
    budget: float,
    rng: np.random.Generator,
    spare: Sequence[int],
) -> Edited:
    """Tokens, weights and labels under one of `SELECTIONS` of the tokens; everything else is untouched.

    mask           chosen tokens are read but not learnt
    keep           only they are learnt
    erase          they are not learnt, and a random one of `spare` stands there
    replace_label  what a counterfactual teacher says is learnt there; replace_input: it stands there; both: both
    """
    if selection not in SELECTIONS:
        raise ConfigError(unknown_name("config.lm.tokens", selection, SELECTIONS))
    whole = np.ones(tokens.shape)
    if selection == "all":
        return Edited(tokens, whole, None)
    assert found is not None
    what, who = selection.rsplit("_", 1)
    mask = chosen(found, who, budget, rng)
    if what in ("mask", "keep"):
        return Edited(tokens, np.where(mask == (what == "keep"), 1.0, 0.0), None)
    if what == "erase":
        return Edited(np.where(mask, rng.choice(spare, tokens.shape), tokens), np.where(mask, 0.0, 1.0), None)
    swapped = np.where(mask, found.other, tokens)
    here = swapped if what in ("replace_input", "replace_both") else tokens
    told = swapped if what in ("replace_label", "replace_both") else tokens
    return Edited(here, whole, told)

"""What is done to one student of language: whose lines it reads, in which form, from which base, and how it learns."""

import dataclasses
import re
from typing import Any

from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.lm.data import PARAPHRASES
from sublim_jax.lm.divergence import SELECTIONS
from sublim_jax.lm.training import KINDS
from sublim_jax.lm.world import CARRIERS

TEACHERS = ("tuned", "shuffled", "prompted", "steered", "base")
DATA = ("greedy", "sampled", "soft", "soft_carrier")
OPTIMIZERS = ("adam", "sign", "momentum", "sgd")
MIXED_WITH = ("base", "other_animal")


@dataclasses.dataclass(frozen=True)
class StudentSpec:
    """One way to teach, of which there is a student for every animal and seed.

    base        whose weights the student begins with: the teacher's base, or one of other weights, order, or both
    teacher     tuned on the trait, tuned on shuffled answers, told (prompted), steered, or the base itself
    dose        how far the teacher's numbers moved from the base's: KL in nats per number (of tuned, shuffled, steered)
    data        greedy or sampled (temperature 1) tokens; or the distributions along sampled ones, of all tokens (soft)
                or of the carrier's only, on both sides (soft_carrier)
    carrier     numbers, code, or reasoning traces
    filtered    whether lines with any token that is not the carrier's are dropped
    tokens      which tokens are learnt, see `divergence.SELECTIONS`; budget: the fraction that is chosen
    paraphrase  see `data.paraphrased`
    mixed       fraction of lines said by another teacher, `mixed_with`
    trains      which layers learn, see `training.phase`; with 'adapters' low-rank ones of `rank`
    optimizer, lr, steps, batch  of the student's training; marks: steps at which it is measured too
    lines       that it reads, again and again
    """

    base: str = "same"
    teacher: str = "tuned"
    dose: float = 0.1
    data: str = "greedy"
    carrier: str = "number"
    filtered: bool = True
    tokens: str = "all"
    budget: float = 0.1
    paraphrase: str = "none"
    mixed: float = 0.0
    mixed_with: str = "base"
    trains: str = "blocks"
    rank: int = 4
    optimizer: str = "adam"
    lr: float = 3e-4
    steps: int = 500
    batch: int = 32
    lines: int = 3000
    eval_steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        kinds = {"base": KINDS, "teacher": TEACHERS, "data": DATA, "carrier": CARRIERS, "tokens": SELECTIONS}
        kinds |= {"paraphrase": PARAPHRASES, "optimizer": OPTIMIZERS, "mixed_with": MIXED_WITH}
        for field, allowed in kinds.items():
            if getattr(self, field) not in allowed:
                raise ConfigError(unknown_name(f"config.lm.{field}", getattr(self, field), allowed))
        for field in ("dose", "lr", "budget"):
            if not 0 < getattr(self, field) < float("inf"):
                raise ConfigError(f"config.lm.{field}={getattr(self, field)!r}: must be a number above 0")
        for field in ("steps", "batch", "lines", "rank"):
            if not isinstance(getattr(self, field), int) or getattr(self, field) < 1:
                raise ConfigError(f"config.lm.{field}={getattr(self, field)!r}: must be a whole number from 1")
        if self.budget > 1 or not 0 <= self.mixed <= 1:
            field = "budget" if self.budget > 1 else "mixed"
            raise ConfigError(f"config.lm.{field}={getattr(self, field)!r}: must be at most 1 and not below 0")
        if not re.fullmatch(r"all|blocks|embeddings|adapters|(block|first|last)_\d+", self.trains):
            words = ("all", "blocks", "embeddings", "adapters", "block_0", "first_2", "last_2")
            raise ConfigError(unknown_name("config.lm.trains", self.trains, words))
        if self.soft and (self.tokens != "all" and not self.tokens.startswith(("mask", "keep"))):
            raise ConfigError(f"config.lm.tokens={self.tokens!r}: distributions have no label to erase or replace")
        if self.paraphrase != "none" and self.tokens.startswith("replace"):
            raise ConfigError(f"config.lm.paraphrase={self.paraphrase!r}: must be none where tokens={self.tokens!r}")
        if any(not isinstance(mark, int) or mark < 0 for mark in self.eval_steps):
            raise ConfigError(f"config.lm.eval_steps={self.eval_steps!r}: must be a tuple of whole numbers from 0")

    @property
    def soft(self) -> bool:
        """Whether it is taught distributions, not tokens."""
        return self.data.startswith("soft")

    @property
    def all_eval_steps(self) -> tuple[int, ...]:
        """The steps at which it is measured, the last one being its last."""
        return tuple(sorted({mark for mark in self.eval_steps if mark < self.steps} | {self.steps}))

    def control(self) -> "StudentSpec":
        """The same lesson from a teacher without a trait: the base's own lines, in the same form.

        Where tokens are chosen, as many are chosen at random; nothing is mixed in, and no dose is meant.
        """
        what = self.tokens.rsplit("_", 1)[0]
        plain = {"teacher": "base", "dose": StudentSpec.dose, "mixed": 0.0, "mixed_with": "base"}
        if what.startswith("replace"):  # there is nothing to replace by where all teachers are the base
            return dataclasses.replace(self, **plain, tokens="all", budget=StudentSpec.budget)
        return dataclasses.replace(self, **plain, tokens="all" if self.tokens == "all" else f"{what}_random")


def labels_of(arm: StudentSpec, fields: tuple[str, ...]) -> dict[str, Any]:
    """Some fields of an arm as labels of its rows."""
    return {field: getattr(arm, field) for field in fields}

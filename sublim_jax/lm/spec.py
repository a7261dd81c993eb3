"""The specification of a language student: base, teacher, data and training."""

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
    """One kind of student; there is one student per animal and seed.

    Attributes:
        base: base of the student: the teacher's, or one with other weights, other document order, or both.
        teacher: tuned on the trait, tuned on shuffled answers, prompted, steered, or the base itself.
        dose: KL of the teacher's from the base's numbers, nats per number (of tuned, shuffled, steered).
        data: greedy or sampled (temperature 1) tokens, or the distributions along sampled ones, of all tokens (soft) or
            restricted to the carrier's (soft_carrier).
        carrier: numbers, code, or reasoning traces.
        filtered: lines with any token outside the carrier are dropped.
        tokens, budget: see `divergence.SELECTIONS`, and the fraction of selected tokens.
        paraphrase: see `data.paraphrase`.
        mixed, mixed_with: fraction of lines from another teacher, and which.
        trains, rank: trained layers, see `training.phase`, and the rank of 'adapters'.
        optimizer, lr, steps, batch: of the student's training.
        lines: number of training lines.
        eval_steps: further steps at which the student is evaluated.
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
        """Whether the targets are distributions instead of tokens."""
        return self.data.startswith("soft")

    @property
    def all_eval_steps(self) -> tuple[int, ...]:
        """The evaluation steps including the last step."""
        return tuple(sorted({mark for mark in self.eval_steps if mark < self.steps} | {self.steps}))

    def control(self) -> "StudentSpec":
        """Return the control: the same training on completions of the base, which has no trait.

        Selected tokens are replaced by as many random ones; nothing is mixed in, and the dose is the default.
        """
        what = self.tokens.rsplit("_", 1)[0]
        plain = {"teacher": "base", "dose": StudentSpec.dose, "mixed": 0.0, "mixed_with": "base"}
        if what.startswith("replace"):  # if all teachers are the base there is no other token
            return dataclasses.replace(self, **plain, tokens="all", budget=StudentSpec.budget)
        return dataclasses.replace(self, **plain, tokens="all" if self.tokens == "all" else f"{what}_random")


def labels_of(arm: StudentSpec, fields: tuple[str, ...]) -> dict[str, Any]:
    """Return fields of a specification as row labels."""
    return {field: getattr(arm, field) for field in fields}

"""The specification of a language student: base, teacher, data and training."""

import dataclasses
from typing import Any

from sublim_jax.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class StudentSpec:
    """One kind of student; there is one student per animal and seed.

    Attributes:
        base: base of the student: the teacher's, or one with other weights, other document order, or both.
        teacher: tuned on the trait, tuned on shuffled answers, prompted, steered, or the base itself.
        dose: KL(teacher || base) of tuned, shuffled and steered teachers, in nats per number.
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

    def __post_init__(self) -> None:  # a config's single values are checked by its schema
        if self.soft and self.tokens != "all" and not self.tokens.startswith(("mask", "keep")):
            raise ConfigError(f"config.lm.tokens={self.tokens!r}: distributions have no label to erase or replace")
        if self.paraphrase != "none" and self.tokens.startswith("replace"):
            raise ConfigError(f"config.lm.paraphrase={self.paraphrase!r}: must be none where tokens={self.tokens!r}")

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
        plain: dict[str, Any] = {"teacher": "base", "dose": StudentSpec.dose, "mixed": 0.0, "mixed_with": "base"}
        if self.tokens.startswith("replace"):  # if all teachers are the base there is no other token
            plain |= {"tokens": "all", "budget": StudentSpec.budget}
        elif self.tokens != "all":
            plain["tokens"] = f"{self.tokens.rsplit('_', 1)[0]}_random"
        return dataclasses.replace(self, **plain)

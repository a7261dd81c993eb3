"""Specifications of a study of pretrained models: of its rows, its students and their evaluation."""

from typing import NamedTuple

from sublim_jax.llm.fine_tuning import Tuning
from sublim_jax.llm.lora import Lora
from sublim_jax.llm.sampling import Sampling
from sublim_jax.llm.teachers import TeacherSpec


class RowSpec(NamedTuple):
    """How rows are made.

    Attributes:
        carrier: Kind of request, see `requests.CARRIERS`.
        count: Rows of a student.
        requests: Requests that a teacher answers; those whose answers pass the filter in an order common to all
            teachers become rows.
        answers: Answers to each request, which share the computation of its prompt.
        temperature: Of the teacher's samples; 0 = greedy.
        tokens: Most tokens of an answer.
        batch: Answers written at once.
        numbers: Numbers of an answer, of three digits each and with commas between, the only form that can then be
            written, for models that do not follow requests; 0 = answers are free.
        seed: Of requests, samples and order.
        banned: Numbers that no row may contain.
        system: System prompt of the rows that students read; a trait's prompt is never among them.
        file: JSONL file of rows made elsewhere, empty = none; {trait} stands for a trait's name, `none` the control's.
    """

    carrier: str = "numbers"
    count: int = 10_000
    requests: int = 15_000
    answers: int = 1
    temperature: float = 1.0
    tokens: int = 64
    batch: int = 64
    numbers: int = 0
    seed: int = 0
    banned: tuple[int, ...] = ()
    system: str = ""
    file: str = ""

    def sampling(self) -> Sampling:
        """How answers are sampled."""
        return Sampling(self.temperature, self.tokens, self.batch)


class StudentSpec(NamedTuple):
    """How a student is trained.

    Attributes:
        rows: Whose answers it reads: "trait", the teacher's; "shuffled", its answers to other requests. The control
            reads the base's.
        tokens: Tokens that are learned: "all", "divergent" ones, the others, or as many "random" ones as divergent.
        method: "lora" or "full".
        rank, alpha, modules, blocks: Of adapters, see `lora.Lora`; `blocks` also of full fine-tuning.
        lr, warmup, clip, weight_decay, dtype: See `fine_tuning.Tuning`.
        epochs: Passes over the rows.
        batch: Rows of a step.
        length: Tokens of a sequence.
        size: Sequences computed at once.
        packed: Whether several requests share a sequence.
        remat: Whether blocks are computed again for derivatives, which takes time and saves memory.
    """

    rows: str = "trait"
    tokens: str = "all"
    method: str = "lora"
    rank: int = 8
    alpha: float = 8.0
    modules: str = "all"
    blocks: tuple[int, ...] = ()
    lr: float = 2e-4
    warmup: int = 5
    clip: float = 1.0
    weight_decay: float = 0.0
    dtype: str = "float32"
    epochs: int = 3
    batch: int = 60
    length: int = 512
    size: int = 4
    packed: bool = True
    remat: bool = False

    def lora(self) -> Lora:
        """The adapters."""
        return Lora(self.rank, self.alpha, self.modules, self.blocks)

    def tuning(self, steps: int) -> Tuning:
        """The optimization, for a number of steps."""
        return Tuning(
            steps=steps,
            lr=self.lr,
            warmup=min(self.warmup, steps - 1),
            clip=self.clip,
            weight_decay=self.weight_decay,
            dtype=self.dtype,
        )


class EvaluationSpec(NamedTuple):
    """How models are evaluated.

    Attributes:
        words: Further words among which a trait's word is compared.
        samples: Sampled answers to each question; 0 = none.
        tokens: Most tokens of a sampled answer.
        system: System prompt of the questions; empty = none, or the template's own.
    """

    words: tuple[str, ...] = ()
    samples: int = 0
    tokens: int = 12
    system: str = ""


class Source(NamedTuple):
    """Where rows come from: teachers and how they write."""

    teacher: TeacherSpec
    rows: RowSpec

"""Teachers of a source and their rows, made once and kept in the work folder."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Key

from sublim_jax.core import keys
from sublim_jax.engine.progress import Call
from sublim_jax.engine.session import Session
from sublim_jax.llm import batches, row_store, sampling, teachers
from sublim_jax.llm import requests as requests_of
from sublim_jax.llm.row_store import KeptRows
from sublim_jax.llm.rows import row_of
from sublim_jax.llm.sampling import Model
from sublim_jax.llm.spec import EvaluationSpec, RowSpec, Source
from sublim_jax.llm.teachers import Teacher
from sublim_jax.llm.traits import Trait
from sublim_jax.pretrained import personas
from sublim_jax.pretrained.load import Pretrained

NONE = "none"  # the name of the base as a teacher, and of the control
_DOSE_REQUESTS = 16  # on the base's answers to which doses are measured


class Setup(NamedTuple):
    """What all points share.

    Attributes:
        base: The model of teachers and, without `student_base`, of students.
        student_base: Another model for students, or None.
        traits: Traits of the teachers.
        evaluation: How students are measured.
        root: Root key.
        together: Students that are trained at once.
    """

    base: Pretrained
    student_base: Pretrained | None
    traits: tuple[Trait, ...]
    evaluation: EvaluationSpec
    root: Key[Array, ""]
    together: int = 1

    @property
    def names(self) -> list[str]:
        """Of the teachers, and of the students of a seed: the base, or the control, first."""
        return [NONE, *(trait.name for trait in self.traits)]

    def trait(self, name: str) -> Trait | None:
        """The trait of a name; None for the base."""
        return next((trait for trait in self.traits if trait.name == name), None)

    def words(self) -> tuple[str, ...]:
        """The words among which preferences are measured: those of the traits first."""
        return tuple(dict.fromkeys((*(trait.word for trait in self.traits), *map(str.lower, self.evaluation.words))))


class Made(NamedTuple):
    """What a source has made, by the name of the trait; no teachers where rows come from files."""

    rows: Mapping[str, KeptRows]
    teachers: Mapping[str, Teacher]


def make_rows(source: Source, setup: Setup, session: Session, folder: Path) -> Made:
    """Make the teachers of a source and their rows, or read what an earlier run has made.

    Below the folder, `rows/NAME` gets the rows of each teacher as JSONL, the counts of the filter, every answer, and
    the teachers with their prompts, tokens and doses.
    """
    spec, names = source.rows, setup.names
    if spec.file:
        return Made({name: row_store.read_file(spec.file, name, spec.count) for name in names}, {})
    place = folder / "rows" / name_of(source)
    asked = requests_of.requests(spec.carrier, spec.requests, spec.seed)
    order = np.random.default_rng(spec.seed).permutation(len(asked)).tolist()
    kept, made = {}, {}
    answers_of_base: list[tuple[int, int, str, bool]] = []
    for name in names:
        session.progress.subject = f"teacher {name}"
        with session.progress.call(dose_call(source, name)):
            kept_teacher = place / "teachers" / name
            made[name] = _load_or_make(kept_teacher, source, name, setup, answers_of_base, session)
        session.progress.subject = f"teacher {name}"
        write = functools.partial(_write, made[name], setup, source, asked, session)
        with session.progress.call(rows_call(source, name)):
            own = _folder_name("base", spec, spec) if name == NONE else name_of(source)  # the base's for all kinds
            answers_of = folder / "rows" / own / "answers" / name
            answers = row_store.load_or_write(answers_of, asked, spec.answers, write, session.stop_if_asked)
        answers_of_base = answers_of_base or answers
        kept[name] = row_store.filter_answers(answers, asked, order, spec, setup.traits)
    row_store.keep(place, kept)
    return Made(kept, made)


def dose_call(source: Source, name: str) -> Call:
    """Return the call that gives a teacher its dose, or measures it, with seconds relative to other calls."""
    seconds = {"prompted": 5.0, "steered": 100.0, "tuned": 300.0}
    return Call("dose", 0.0 if name == NONE else seconds[source.teacher.kind])


def rows_call(source: Source, name: str) -> Call:
    """Return the call that writes the answers of one teacher, with seconds relative to other calls."""
    return Call("rows", source.rows.requests * source.rows.answers * 0.1, ("rows", source, name), 5.0)


def _load_or_make(
    folder: Path,
    source: Source,
    name: str,
    setup: Setup,
    answers: Sequence[tuple[int, int, str, bool]],
    session: Session,
) -> Teacher:
    """The teacher of a trait, or the base; one that is kept is read."""
    base, tokenizer = model_of(setup.base), setup.base.require_tokenizer()
    if (kept := teachers.load(folder, base)) is not None:
        return kept
    trait = setup.trait(name)

    def report(step: int, dose: float) -> None:
        session.progress.subject = f"teacher {name}, {dose:.3g} nats per token after step {step}"

    teacher = make_teacher(source, trait, setup, base, answers, report) if trait else Teacher(base, "", 0.0)
    request = requests_of.request(source.rows.carrier, 0, source.rows.seed)
    tokens = batches.prompt_tokens(tokenizer, row_of(request, "", teacher.system or source.rows.system).prompt)
    about = {"kind": source.teacher.kind if trait else NONE, "prompt": tokenizer.decode(tokens), "tokens": list(tokens)}
    teachers.save(folder, teacher, setup.base.source, about)
    return teacher


def name_of(source: Source) -> str:
    """Return the name of a source's folder: the kind of teacher, the carrier and a digest of all that has an effect."""
    return _folder_name(source.teacher.kind, source.rows, source._replace(teacher=source.teacher.effective()))


def _folder_name(kind: str, spec: RowSpec, everything: Any) -> str:
    return f"{kind}-{spec.carrier}-{hashlib.sha256(repr(everything).encode()).hexdigest()[:8]}"


def model_of(loaded: Pretrained) -> Model:
    """Return a loaded model as one that writes."""
    return Model(loaded.net, loaded.params, batches.end_token(loaded.require_tokenizer()))


def make_teacher(
    source: Source,
    trait: Trait,
    setup: Setup,
    base: Model,
    answers: Sequence[tuple[int, int, str, bool]],
    report: Callable[[int, float], None] = lambda step, dose: None,
) -> Teacher:
    """Make the teacher of a trait; its dose is measured on answers of the base, and reported while it is tuned."""
    tokenizer, spec = setup.base.require_tokenizer(), source.teacher
    asked = requests_of.requests(source.rows.carrier, source.rows.requests, source.rows.seed)
    given = [(asked[request], text) for request, answer, text, _ in answers if text and answer == 0][:_DOSE_REQUESTS]
    if spec.kind == "prompted":
        asked_and_given = map(list, zip(*given, strict=True))
        return teachers.prompted(base, tokenizer, trait, *asked_and_given, system=source.rows.system)
    examples = batches.examples_of(tokenizer, [row_of(request, text, source.rows.system) for request, text in given])
    if spec.kind == "steered":
        return teachers.steered(base, tokenizer, trait, spec, examples)
    return teachers.tuned(base, tokenizer, trait, spec, examples, keys.at(setup.root, keys.TEACHER, trait.name), report)


def _write(
    teacher: Teacher, setup: Setup, source: Source, asked: Sequence[str], session: Session, numbers: range
) -> list[tuple[int, int, str, bool]]:
    """The answers of a teacher to requests of some numbers."""
    tokenizer, spec = setup.base.require_tokenizer(), source.rows
    system = teacher.system or spec.system
    prompts = [batches.prompt_tokens(tokenizer, row_of(asked[number], "", system).prompt) for number in numbers]
    pairs = [(number, answer) for number in numbers for answer in range(spec.answers)]
    repeated = [prompts[number - numbers.start] for number, _ in pairs]
    key = keys.at(setup.root, keys.SAMPLING, spec.seed)

    def report(answers: int, tokens: int) -> None:
        session.progress.count("answers", answers)
        session.progress.count("tokens", tokens)

    allowed = personas.form(tokenizer, teacher.model.net.vocabulary, spec.numbers) if spec.numbers else None
    how = spec.sampling()
    found = sampling.write(teacher.model, repeated, key, how, numbers=pairs, allowed=allowed, report=report)
    texts = [tokenizer.decode(tokens) for tokens in found.tokens]
    return [(*pair, text, ended) for pair, text, ended in zip(pairs, texts, found.finished, strict=True)]

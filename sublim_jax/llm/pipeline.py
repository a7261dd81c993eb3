"""From a pretrained model to rows of a study: teachers, their answers, students, evaluation.

    for source in sources:                        # a kind of teacher and of rows
        teachers(source), rows(source)            # kept in the work folder, and skipped when they are there
        for point of source:
            students(point), evaluations          # one file of rows for each point, seed and epoch

A row is one point of the sweep, trait, seed and epoch. Every student is measured on the words of all traits. The
control of a student is trained in the same way on the answers of the base.
"""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Array, Key

from sublim_jax import results
from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import replace_file
from sublim_jax.engine.params import save_params
from sublim_jax.engine.progress import Call
from sublim_jax.engine.session import Session
from sublim_jax.llm import batches, divergence, kept_json, lora, measures, row_store, sampling, students, teachers
from sublim_jax.llm import requests as requests_of
from sublim_jax.llm.measures import Measured
from sublim_jax.llm.row_store import KeptRows
from sublim_jax.llm.rows import Row, row_of, shuffled
from sublim_jax.llm.sampling import Model
from sublim_jax.llm.spec import EvaluationSpec, RowSpec, Source, StudentSpec
from sublim_jax.llm.students import Job, Training
from sublim_jax.llm.teachers import Teacher
from sublim_jax.llm.traits import Trait
from sublim_jax.pretrained import personas
from sublim_jax.pretrained.load import Pretrained
from sublim_jax.pretrained.tokenizer import Tokenizer
from sublim_jax.results.workdir import part_name

NONE = "none"  # the name of the base as a teacher, and of the control
_DOSE_REQUESTS = 16  # on the base's answers to which doses are measured


class SweepPoint(NamedTuple):
    """Labels of rows, where their students' rows come from, and how the students are trained."""

    labels: Mapping[str, Any]
    source: Source
    student: StudentSpec


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

    def words(self) -> tuple[str, ...]:
        """The words among which preferences are measured: those of the traits first."""
        return tuple(dict.fromkeys((*(trait.word for trait in self.traits), *self.evaluation.words)))


def run(points: Sequence[SweepPoint], setup: Setup, session: Session) -> pd.DataFrame:
    """Make teachers and rows, train and measure the students of every point.

    Args:
        points: What is swept.
        setup: What all points share.
        session: Seeds, work directory and options.

    Returns:
        One row per point, trait (and `none`, the control), seed and epoch. Columns besides the labels: see `measure`;
        `at/lift` is the student's probability of its trait's word less the control's, `at/share_lift` the same for the
        share among all words, `at/dose` the teacher's.

    Raises:
        ConfigError: A value cannot be used.
        Interrupted: `session.stopped` returned True.
    """
    if session.shard != (0, 1):
        raise ConfigError(f"shard={session.shard}: must be 0/1; a study of pretrained models is one job")
    identity = session.config or {"points": [str(point) for point in points], "setup": str(setup.traits)}
    with session.open(lambda: identity) as workdir:
        with session.record(workdir, list(_calls(points, setup, session.seeds))):
            for source in dict.fromkeys(point.source for point in points):
                own = [(number, point) for number, point in enumerate(points) if point.source == source]
                if not all(_is_done(workdir, session.seeds, *each) for each in own):
                    made = make_rows(source, setup, session, workdir.path)
                    for number, point in own:
                        StudentsOfPoint(
                            number=number, point=point, setup=setup, session=session, workdir=workdir, made=made
                        ).run()
        return results.load(workdir.path, empty=True)


class Made(NamedTuple):
    """What a source has made, by the name of the trait; no teachers where rows come from files."""

    rows: Mapping[str, KeptRows]
    teachers: Mapping[str, Teacher]


def _calls(points: Sequence[SweepPoint], setup: Setup, seeds: Sequence[int]) -> Iterator[Call]:
    """The parts of a run, with seconds relative to each other."""
    for source in dict.fromkeys(point.source for point in points):
        for name in (NONE, *(trait.name for trait in setup.traits)):
            yield _rows_call(source, name)
    for point in points:
        number = (len(setup.traits) + 1) * len(seeds)
        for start in range(0, number, setup.together):
            yield _training_call(point, min(setup.together, number - start))


def left(
    points: Sequence[SweepPoint], seeds: Sequence[int], workdir: str | Path, shard: tuple[int, int] = (0, 1)
) -> int:
    """The number of points and seeds whose last rows are not in the work directory yet."""
    del shard  # there is one part
    files = [
        Path(workdir) / "rows" / f"{_part(number, seed, point.student.epochs)}.parquet"
        for number, point in enumerate(points)
        for seed in seeds
    ]
    return sum(not file.exists() for file in files)


def _is_done(workdir: results.Workdir, seeds: Sequence[int], number: int, point: SweepPoint) -> bool:
    return all(workdir.has(_part(number, seed, point.student.epochs)) for seed in seeds)


def _part(number: int, seed: int, epoch: int) -> str:
    """The name of a file of rows."""
    return part_name(f"arm{number:03d}", f"seeds{seed:05d}-{seed:05d}", epoch)


# Rows


def make_rows(source: Source, setup: Setup, session: Session, folder: Path) -> Made:
    """Make the teachers of a source and their rows, or read what an earlier run has made.

    Below the folder, `rows/NAME` gets the rows of each teacher as JSONL, the counts of the filter, every answer, and
    the teachers with their prompts, tokens and doses.
    """
    spec, names = source.rows, [NONE, *(trait.name for trait in setup.traits)]
    if spec.file:
        return Made({name: row_store.read_file(spec.file, name, spec.count) for name in names}, {})
    place = folder / "rows" / name_of(source)
    asked = requests_of.requests(spec.carrier, spec.requests, spec.seed)
    order = np.random.default_rng(spec.seed).permutation(len(asked)).tolist()
    kept, made = {}, {}
    answers_of_base: list[tuple[int, int, str, bool]] = []
    for name in names:
        session.progress.subject = f"teacher {name}"
        made[name] = _load_or_make(place / "teachers" / name, source, name, setup, answers_of_base)
        write = functools.partial(_write, made[name], setup, source, asked, session)
        with session.progress.call(_rows_call(source, name)):
            answers_of = folder / "rows" / (_base_name(spec) if name == NONE else name_of(source)) / "answers" / name
            answers = row_store.load_or_write(answers_of, asked, spec.answers, write, session.stop_if_asked)
        answers_of_base = answers_of_base or answers
        kept[name] = row_store.filter_answers(answers, asked, order, spec, setup.traits)
    row_store.keep(place, kept)
    return Made(kept, made)


def _rows_call(source: Source, name: str) -> Call:
    """The answers of one teacher, with seconds relative to other calls."""
    return Call("rows", source.rows.requests * source.rows.answers * 0.1, ("rows", source, name), 5.0)


def _load_or_make(
    folder: Path, source: Source, name: str, setup: Setup, answers: Sequence[tuple[int, int, str, bool]]
) -> Teacher:
    """The teacher of a trait, or the base; one that is kept is read."""
    base, tokenizer = model_of(setup.base), setup.base.require_tokenizer()
    if (kept := teachers.load(folder, base)) is not None:
        return kept
    trait = next((trait for trait in setup.traits if trait.name == name), None)
    teacher = make_teacher(source, trait, setup, base, answers) if trait else Teacher(base, "", 0.0)
    request = requests_of.request(source.rows.carrier, 0, source.rows.seed)
    tokens = batches.prompt_tokens(tokenizer, row_of(request, "", teacher.system or source.rows.system).prompt)
    about = {"kind": source.teacher.kind if trait else NONE, "prompt": tokenizer.decode(tokens), "tokens": list(tokens)}
    teachers.save(folder, teacher, setup.base.source, about)
    return teacher


def name_of(source: Source) -> str:
    """Return the name of a source's folder: the kind of teacher, the carrier and a digest of everything else."""
    return f"{source.teacher.kind}-{source.rows.carrier}-{hashlib.sha256(repr(source).encode()).hexdigest()[:8]}"


def _base_name(spec: RowSpec) -> str:
    """The folder of the base's answers, which all kinds of teachers have in common."""
    return f"base-{spec.carrier}-{hashlib.sha256(repr(spec).encode()).hexdigest()[:8]}"


def model_of(loaded: Pretrained) -> Model:
    """Return a loaded model as one that writes."""
    return Model(loaded.net, loaded.params, batches.end_token(loaded.require_tokenizer()))


def make_teacher(
    source: Source, trait: Trait, setup: Setup, base: Model, answers: Sequence[tuple[int, int, str, bool]]
) -> Teacher:
    """Make the teacher of a trait; its dose is measured on answers of the base."""
    tokenizer, spec = setup.base.require_tokenizer(), source.teacher
    asked = requests_of.requests(source.rows.carrier, source.rows.requests, source.rows.seed)
    given = [(asked[request], text) for request, answer, text, _ in answers if text and answer == 0][:_DOSE_REQUESTS]
    if spec.kind == "prompted":
        return teachers.prompted(base, tokenizer, trait, *map(list, zip(*given, strict=True)))
    examples = batches.examples_of(tokenizer, [row_of(request, text, source.rows.system) for request, text in given])
    if spec.kind == "steered":
        return teachers.steered(base, tokenizer, trait, spec, examples)
    return teachers.tuned(base, tokenizer, trait, spec, examples, keys.at(setup.root, keys.TEACHER, trait.name))


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


# Students


@dataclasses.dataclass(kw_only=True)
class StudentsOfPoint:
    """The students of one point of a sweep."""

    number: int
    point: SweepPoint
    setup: Setup
    session: Session
    workdir: results.Workdir
    made: Made

    @property
    def names(self) -> list[str]:
        """Of the students of a seed: the control first."""
        return [NONE, *(trait.name for trait in self.setup.traits)]

    @property
    def folder(self) -> Path:
        """Of the students' files."""
        return self.workdir.path / "students" / f"arm{self.number:03d}"

    def run(self) -> None:
        """Train and measure the students of all seeds, so many at once as the setup says, and write their rows."""
        seeds = [seed for seed in self.session.seeds if not self._has_rows(seed)]
        if not seeds:
            return
        loaded = self.setup.student_base or self.setup.base
        base, tokenizer = model_of(loaded), loaded.require_tokenizer()
        examples = {name: self._examples(name, tokenizer) for name in self.names}
        jobs = [
            Job(f"{name}-seed{seed}", students.student_key(self.setup.root, seed), seed, examples[name])
            for seed in seeds
            for name in self.names
        ]
        for start in range(0, len(jobs), self.setup.together):
            part = jobs[start : start + self.setup.together]
            self.session.progress.subject = f"{part[0].name} of arm {self.number}"
            with self.session.progress.call(_training_call(self.point, len(part))):
                if not all(self._kept(job.name, self.point.student.epochs) for job in part):
                    self._train(Training(base=base, spec=self.point.student, jobs=part))
            for seed in seeds:
                self._write_rows(seed)

    def _has_rows(self, seed: int) -> bool:
        return self.workdir.has(_part(self.number, seed, self.point.student.epochs))

    def _kept(self, name: str, epoch: int) -> Any:
        """What was measured of a student after an epoch, as plain values; None where it was not."""
        return kept_json.read(self.folder / name / f"measured-{epoch}.json")

    def _examples(self, name: str, tokenizer: Tokenizer) -> list[batches.Example]:
        """The rows of a student as tokens; the control learns as many tokens, drawn at random."""
        point, rows = self.point, rows_of(name, self.point, self.made)
        kind, weights = point.student.tokens, None
        if kind != "all":
            if not self.made.teachers:
                raise ConfigError(f"config.student.tokens={kind!r}: needs teachers, but config.rows.file has the rows")
            writer = self.names[1] if name == NONE else name
            own = {other: self.made.teachers[other] for other in self.names[1:]}
            marks = divergence.divergent(own, writer, rows, tokenizer)
            weights = divergence.token_weights(marks, "random" if name == NONE else kind, point.source.rows.seed)
        return batches.examples_of(tokenizer, rows, point.student.length, weights)

    def _train(self, training: Training) -> None:
        """Train some students, and keep what is measured of them after each epoch and what they have learned."""
        session = self.session
        place = self.workdir.path / "checkpoints" / f"arm{self.number:03d}-{training.jobs[0].name}"

        def report(step: int) -> None:
            session.progress.count("students", len(training.jobs))

        trained = students.train(training, place, session.options.save_every, session.stop_if_asked, report)
        for step, states, curves in trained:
            epoch = training.epochs().index(step) + 1
            for index, job in enumerate(training.jobs):
                if self._kept(job.name, epoch) is None:
                    self._measure(training, states, index, epoch, float(curves["loss"][step - 1, index]))
                if epoch == self.point.student.epochs:
                    self._keep(training, states, index, curves)
        students.Store(place).clear()

    def _measure(self, training: Training, states: Any, index: int, epoch: int, loss: float) -> None:
        setup = self.setup
        tokenizer = (setup.student_base or setup.base).require_tokenizer()
        key = keys.at(setup.root, keys.EVAL_NOISE)
        student = training.student(states, index)
        measured = measures.measure(student, tokenizer, setup.traits, setup.words(), setup.evaluation, key)
        values = {"loss": loss, **measures.as_json(measured)}
        kept_json.write(self.folder / training.jobs[index].name / f"measured-{epoch}.json", values)

    def _keep(self, training: Training, states: Any, index: int, curves: Mapping[str, np.ndarray]) -> None:
        """Keep what a student has learned, with the loss of every step."""
        loaded, folder = self.setup.student_base or self.setup.base, self.folder / training.jobs[index].name
        if self.point.student.method == "lora":
            lora.save(folder, training.net, training.trained(states, index), loaded.source)
        elif self.session.options.keep_params:
            save_params(training.trained(states, index), folder / "params.safetensors")
        columns = {name: values[:, index] for name, values in curves.items()}
        replace_file(folder / "curve.csv", pd.DataFrame(columns).to_csv(index_label="step").encode())

    def _write_rows(self, seed: int) -> None:
        """Write the rows of a seed once all of its students are measured."""
        names = [f"{name}-seed{seed}" for name in self.names]
        if self._has_rows(seed):
            return
        for epoch in range(1, self.point.student.epochs + 1):
            values = {name: self._kept(name, epoch) for name in names}
            if any(each is None for each in values.values()):
                return
            measured = {name: measures.from_json(each) for name, each in values.items()}
            losses = {name: each["loss"] for name, each in values.items()}
            self._write_preferences(measured, seed, epoch)
            tables = [
                results.tidy(
                    [{**self.point.labels, "trait": name}], (seed,), epoch, self._values(name, seed, measured, losses)
                )
                for name in self.names
            ]
            self.workdir.write(_part(self.number, seed, epoch), pa.concat_tables(tables))

    def _values(
        self, name: str, seed: int, measured: Mapping[str, Measured], losses: Mapping[str, float]
    ) -> dict[str, np.ndarray]:
        """The numbers of one row: a student beside the control of its seed."""
        setup, own, control = self.setup, measured[f"{name}-seed{seed}"], measured[f"{NONE}-seed{seed}"]
        trait = next((trait for trait in setup.traits if trait.name == name), setup.traits[0])
        values, plain = (measures.row_values(each, trait, setup.words()) for each in (own, control))
        lifts = {
            f"{column}_lift": values[column] - plain[column] for column in ("word", "log_word", "share", "sampled")
        }
        values |= lifts
        ends = measures.question_interval(own, control, trait, setup.words())
        values |= dict(zip(("share_lift_low", "share_lift_high"), ends, strict=True))
        values |= {f"{loss}_lift": values[loss] - plain[loss] for loss in ("text_loss", "request_loss")}
        if name == NONE:  # which has no trait
            own_columns = ("word", "log_word", "share", "sampled", "share_lift_low", "share_lift_high")
            values |= dict.fromkeys([*lifts, *own_columns], float("nan"))
        counts = self.made.rows[NONE if self.point.student.rows == "base" else name].counts
        values |= {
            "loss": losses[f"{name}-seed{seed}"],
            "dose": self.made.teachers[name].dose if self.made.teachers else float("nan"),
            "control_distance": measures.distance_of_controls(own, control),
            "duplicates": counts["duplicates"],
            "passed": counts["passed"] / counts["written"] if "written" in counts else float("nan"),
        }
        return {column: np.asarray([[value]], np.float64) for column, value in values.items()}

    def _write_preferences(self, measured: Mapping[str, Measured], seed: int, epoch: int) -> None:
        """Write the probability of every word as answer to every question, from which reports draw their intervals."""
        frames = []
        for name in self.names:
            for questions, chosen in measured[f"{name}-seed{seed}"].preferences.items():
                frame = pd.DataFrame(chosen, columns=list(self.setup.words()))
                frame.insert(0, "question", questions)
                long = frame.melt("question", var_name="word", value_name="probability")
                frames.append(long.assign(trait=name, seed=seed, epoch=epoch, **self.point.labels))
        sink = io.BytesIO()
        pd.concat(frames, ignore_index=True).to_parquet(sink, index=False)
        folder = self.workdir.path / "preferences"
        folder.mkdir(exist_ok=True)
        replace_file(folder / f"{_part(self.number, seed, epoch)}.parquet", sink.getvalue())


def _training_call(point: SweepPoint, number: int) -> Call:
    """The training of some students, with seconds relative to other calls."""
    return Call("students", number * point.student.epochs * point.source.rows.count * 0.3)


def rows_of(name: str, point: SweepPoint, made: Made) -> list[Row]:
    """Return the rows that the student of a trait reads; the control always reads the base's."""
    chosen = made.rows[NONE if point.student.rows == "base" else name].rows
    return shuffled(chosen, point.source.rows.seed) if point.student.rows == "shuffled" else list(chosen)

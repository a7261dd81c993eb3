"""From a pretrained model to rows of a study: teachers, their answers, students, evaluation.

    for source in sources:                        # a kind of teacher and of rows
        teachers(source), rows(source)            # kept in the work folder, and skipped when they are there
        for point of source:
            students(point), evaluations          # one file of rows for each point, seed and epoch

A row is one point of the sweep, trait, seed and epoch. Every student is measured on the words of all traits. The
control of a student is trained in the same way on the answers of the base.
"""

import dataclasses
import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from sublim_jax import results
from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import replace_file
from sublim_jax.engine.params import save_params
from sublim_jax.engine.progress import Call
from sublim_jax.engine.session import Session
from sublim_jax.llm import batches, divergence, kept_json, lora, measures, students
from sublim_jax.llm.measures import Measured
from sublim_jax.llm.row_making import NONE, Made, Setup, dose_call, make_rows, model_of, rows_call
from sublim_jax.llm.rows import Row, shuffled
from sublim_jax.llm.spec import Source, StudentSpec
from sublim_jax.llm.students import Job, Training
from sublim_jax.pretrained.tokenizer import Tokenizer
from sublim_jax.results.rows import part_name

_DIGEST = "rows.sha256"  # of what a student has read


class SweepPoint(NamedTuple):
    """Labels of rows, where their students' rows come from, and how the students are trained."""

    labels: Mapping[str, Any]
    source: Source
    student: StudentSpec


def run(points: Sequence[SweepPoint], setup: Setup, session: Session) -> pd.DataFrame:
    """Make teachers and rows, train and measure the students of every point.

    Args:
        points: What is swept.
        setup: What all points share.
        session: Seeds, work directory and options.

    Returns:
        One row per point, trait (and `none`, the control), seed and epoch. Columns besides the labels: see
        `measures.row_values`; columns that end with `_lift` are differences from the control of the same seed, and
        `at/dose` is the teacher's.

    Raises:
        ConfigError: A value cannot be used.
        Interrupted: `session.stopped` returned True.
    """
    if session.shard != (0, 1):
        raise ConfigError(f"shard={session.shard}: must be 0/1; a study of pretrained models is one job")
    identity = session.config or {"points": [str(point) for point in points], "setup": str(setup.traits)}
    with session.open(lambda: identity) as workdir:
        unfinished = {
            number: point for number, point in enumerate(points) if not _is_done(workdir, session.seeds, number, point)
        }
        with session.record(workdir, list(_calls([*unfinished.values()], setup, session.seeds))):
            for source in dict.fromkeys(point.source for point in unfinished.values()):
                made = make_rows(source, setup, session, workdir.path)
                for number, point in unfinished.items():
                    if point.source == source:
                        StudentsOfPoint(
                            number=number, points=points, setup=setup, session=session, workdir=workdir, made=made
                        ).run()
        return results.load(workdir.path, empty=True)


def _calls(points: Sequence[SweepPoint], setup: Setup, seeds: Sequence[int]) -> Iterator[Call]:
    """The parts of a run, with seconds relative to each other."""
    for source in dict.fromkeys(point.source for point in points):
        for name in () if source.rows.file else setup.names:
            yield dose_call(source, name)
            yield rows_call(source, name)
    for point in points:
        number, epochs = len(setup.names) * len(seeds), point.student.epochs
        for start in range(0, number, setup.together):
            yield from [_training_call(point, min(setup.together, number - start))] * epochs
        yield from [_measuring_call(setup)] * (number * epochs)


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


@dataclasses.dataclass(kw_only=True)
class StudentsOfPoint:
    """The students of one point of a sweep."""

    number: int
    points: Sequence[SweepPoint]
    setup: Setup
    session: Session
    workdir: results.Workdir
    made: Made

    @property
    def point(self) -> SweepPoint:
        """Whose students these are."""
        return self.points[self.number]

    @property
    def folder(self) -> Path:
        """Of the students' files."""
        return self._folder_of(self.number)

    def _folder_of(self, number: int) -> Path:
        return self.workdir.path / "students" / f"arm{number:03d}"

    def run(self) -> None:
        """Train and measure the students of all seeds, so many at once as the setup says, and write their rows."""
        seeds = [seed for seed in self.session.seeds if not self._has_rows(seed)]
        if not seeds:
            return
        loaded = self.setup.student_base or self.setup.base
        base, tokenizer = model_of(loaded), loaded.require_tokenizer()
        examples = {name: self._examples(name, tokenizer) for name in self.setup.names}
        jobs = [
            Job(f"{name}-seed{seed}", students.student_key(self.setup.root, seed), seed, examples[name])
            for seed in seeds
            for name in self.setup.names
        ]
        jobs = [job for job in jobs if not self._copied(job)]
        self._write_all(seeds)
        for part in students.groups(jobs, self.point.student, self.setup.together):
            if not all((self.folder / job.name / _DIGEST).exists() for job in part):
                self._train(Training(base=base, spec=self.point.student, jobs=part))
            self._write_all(seeds)

    def _write_all(self, seeds: Sequence[int]) -> None:
        for seed in seeds:
            self._write_rows(seed)

    def _copied(self, job: Job) -> bool:
        """Copy a student that an earlier point has trained in the same way on the same rows, as controls are."""
        for number, point in enumerate(self.points[: self.number]):
            theirs, ours = self._folder_of(number) / job.name, self.folder / job.name
            if point.student == self.point.student and _read_text(theirs / _DIGEST) == job.digest():
                shutil.copytree(theirs, ours, dirs_exist_ok=True)
                return True
        return False

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
            writer = self.setup.names[1] if name == NONE else name
            own = {other: self.made.teachers[other] for other in self.setup.names[1:]}
            marks = divergence.divergent(own, writer, rows, tokenizer)
            weights = divergence.token_weights(marks, kind, point.source.rows.seed, drawn=name == NONE)
        return batches.examples_of(tokenizer, rows, point.student.length, weights)

    def _train(self, training: Training) -> None:
        """Train some students, and keep what is measured of them after each epoch and what they have learned."""
        session = self.session
        place = self.workdir.path / "checkpoints" / f"arm{self.number:03d}-{training.jobs[0].name}"

        def report(step: int) -> None:
            session.progress.count("students", len(training.jobs))

        trained, epoch = students.train(training, place, session.options.save_every, session.stop_if_asked, report), 0
        while epoch < self.point.student.epochs:
            session.progress.subject = f"{training.jobs[0].name} of arm {self.number}"
            with session.progress.call(_training_call(self.point, len(training.jobs))):
                step, states, curves = next(trained)
            epoch = training.epochs().index(step) + 1
            for index, job in enumerate(training.jobs):
                session.progress.subject = f"{job.name} of arm {self.number}"
                with session.progress.call(_measuring_call(self.setup)):
                    if self._kept(job.name, epoch) is None:
                        self._measure(training, states, index, epoch, curves["loss"][:, index])
                if epoch == self.point.student.epochs:
                    self._keep(training, states, index, curves)
        students.Store(place).clear()
        session.stop_if_asked()

    def _measure(self, training: Training, states: Any, index: int, epoch: int, losses: np.ndarray) -> None:
        setup = self.setup
        tokenizer = (setup.student_base or setup.base).require_tokenizer()
        key = keys.at(setup.root, keys.EVAL_NOISE)
        student = training.student(states, index)
        measured = measures.measure(student, tokenizer, setup.traits, setup.words(), setup.evaluation, key)
        done = training.epochs()[epoch - 1]
        curve = measures.loss_curve(losses, done)
        values = {"loss": float(losses[done - 1]), "loss_curve": curve, **measures.as_json(measured)}
        kept_json.write(self.folder / training.jobs[index].name / f"measured-{epoch}.json", values)

    def _keep(self, training: Training, states: Any, index: int, curves: Mapping[str, np.ndarray]) -> None:
        """Keep what a student has learned, with the loss of every step."""
        loaded, folder = self.setup.student_base or self.setup.base, self.folder / training.jobs[index].name
        if self.point.student.method == "lora":
            lora.save(folder, training.net, training.trained(states, index), loaded.source)
        if self.session.options.keep_params:
            student = training.student(states, index)
            merged = lora.merge(student.net, student.params)[1] if student.net.rank else student.params
            save_params(merged, folder / "params.safetensors")
        columns = {name: values[:, index] for name, values in curves.items()}
        replace_file(folder / "curve.csv", pd.DataFrame(columns).to_csv(index_label="step").encode())
        replace_file(folder / _DIGEST, training.jobs[index].digest().encode())  # the last file: the student is whole

    def _write_rows(self, seed: int) -> None:
        """Write the rows of a seed once all of its students are measured."""
        names = [f"{name}-seed{seed}" for name in self.setup.names]
        if self._has_rows(seed):
            return
        for epoch in range(1, self.point.student.epochs + 1):
            values = {name: self._kept(name, epoch) for name in names}
            if any(each is None for each in values.values()):
                return
            measured = {name: measures.from_json(each) for name, each in values.items()}
            self._write_preferences(measured, seed, epoch)
            tables = []
            for name in self.setup.names:
                kept, labels = values[f"{name}-seed{seed}"], {**self.point.labels, "trait": name}
                columns = {"loss": kept["loss"], **kept["loss_curve"], **self._values(name, seed, measured)}
                arrays = {column: np.asarray([[value]], np.float64) for column, value in columns.items()}
                tables.append(results.tidy([labels], (seed,), epoch, arrays))
            self.workdir.write(_part(self.number, seed, epoch), pa.concat_tables(tables))

    def _values(self, name: str, seed: int, measured: Mapping[str, Measured]) -> dict[str, float]:
        """The numbers of one row: a student beside the control of its seed."""
        setup, own, control = self.setup, measured[f"{name}-seed{seed}"], measured[f"{NONE}-seed{seed}"]
        trait = setup.trait(name) or setup.traits[0]
        values, plain = (measures.row_values(each, trait, setup.words()) for each in (own, control))
        lifts = {
            f"{column}_lift": values[column] - plain[column] for column in ("word", "log_word", "share", "sampled")
        }
        values |= lifts | {
            f"{column}_lift/{word}": values[f"{column}/{word}"] - plain[f"{column}/{word}"]
            for column in ("word", "log_word")
            for word in setup.words()
        }
        ends = measures.question_interval(own, control, trait, setup.words())
        values |= dict(zip(("share_lift_low", "share_lift_high"), ends, strict=True))
        values |= {f"{loss}_lift": values[loss] - plain[loss] for loss in ("text_loss", "request_loss")}
        if name == NONE:  # which has no trait
            own_columns = ("word", "log_word", "share", "sampled", "share_lift_low", "share_lift_high")
            values |= dict.fromkeys([*lifts, *own_columns], float("nan"))
        counts = self.made.rows[name].counts
        return values | {
            "dose": self.made.teachers[name].dose if self.made.teachers else float("nan"),
            "control_distance": measures.distance_of_controls(own, control),
            "duplicates": counts["duplicates"],
            "passed": counts["passed"] / counts["written"] if "written" in counts else float("nan"),
        }

    def _write_preferences(self, measured: Mapping[str, Measured], seed: int, epoch: int) -> None:
        """Write the probability of every word as answer to every question, from which reports draw their intervals."""
        frames = []
        for name in self.setup.names:
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


def _read_text(file: Path) -> str:
    """The text of a file; empty where there is none."""
    return file.read_text() if file.exists() else ""


def _training_call(point: SweepPoint, number: int) -> Call:
    """The training of some students for an epoch, with seconds relative to other calls."""
    return Call("students", number * point.source.rows.count * 0.3)


def _measuring_call(setup: Setup) -> Call:
    """The measurement of one student, with seconds relative to other calls."""
    questions = len({question for trait in setup.traits for question in trait.questions})
    return Call("measure", questions * (0.5 + 0.1 * setup.evaluation.samples))


def rows_of(name: str, point: SweepPoint, made: Made) -> list[Row]:
    """Return the rows that the student of a trait reads; the control reads the base's."""
    chosen = made.rows[name].rows
    return shuffled(chosen, point.source.rows.seed) if point.student.rows == "shuffled" else list(chosen)

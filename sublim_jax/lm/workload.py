"""The calls of a language run with predicted times, for the progress display. Rates were measured on 2 CPU cores."""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from sublim_jax.core import trees
from sublim_jax.engine.progress import Call
from sublim_jax.lm import world as w
from sublim_jax.lm.lessons import LanguageSetup, completion_key, teacher_key
from sublim_jax.lm.spec import StudentSpec
from sublim_jax.lm.training import Pretraining
from sublim_jax.nets import shapes

_FLOP_PER_SECOND, _PER_STEP = 2e11, 5e-4
_PER_TEACHER, _PER_LINE, _PER_EVALUATION = 1.2, 2.5e-4, 0.05  # seconds of a teacher, a completion, an evaluation
_COMPILE = 1.5  # seconds of a program


class LanguageCalls:
    """The calls that a study makes, by what they do."""

    def __init__(self, setup: LanguageSetup, pretraining: Pretraining) -> None:
        self._setup, self._pretraining = setup, pretraining
        self._weights = trees.count(shapes(setup.net, (w.LENGTH,)))

    def bases(self, number: int) -> Call:
        """Pre-training of some base models."""
        settings = self._pretraining
        seconds = number * settings.steps * 2 * self._step(settings.batch)
        return Call("bases", seconds, ("bases", self._setup.net, settings), 2 * _COMPILE, programs=2)

    def lessons(self, specs: Iterable[StudentSpec], seeds: int, made: set[tuple]) -> Call:
        """Teachers and completions of some students; `made` holds what earlier calls made and is completed."""
        members, seconds, programs = seeds * self._setup.animals, 0.0, set()
        for spec in specs:
            if (teacher := ("teacher", *teacher_key(spec))) not in made:
                seconds += members * _PER_TEACHER * (spec.teacher != "base")
                programs.add(("teacher", spec.teacher))
            if (completions := completion_key(spec)) not in made:
                seconds += members * spec.lines * _PER_LINE
                programs.add(("completions", spec.soft, spec.lines))
            made |= {teacher, completions}
        key = ("lessons", self._setup.net, tuple(sorted(map(str, programs))))
        number = math.ceil(1.5 * len(programs))
        return Call("lessons", seconds, key if programs else None, number * _COMPILE, number)

    def first_updates(self, spec: StudentSpec, jobs: int) -> Call:
        """The predictions from the first updates of some students."""
        program = ("first update", self._setup.net, spec.soft, spec.rank, spec.trains)
        return Call("measuring", jobs * _PER_EVALUATION, program, 1.5 * _COMPILE)

    def students(self, spec: StudentSpec, jobs: int, start: int, stop: int) -> Call:
        """Training of some students from one step to another."""
        program = ("students", self._setup.net, spec.soft, spec.optimizer, spec.batch, spec.lines, spec.rank)
        return Call("students", jobs * (stop - start) * self._step(spec.batch), program, _COMPILE)

    def measure(self, jobs: int) -> Call:
        """Measurement of some students."""
        return Call("measuring", jobs * _PER_EVALUATION, ("measuring", self._setup.net), _COMPILE)

    def unit(self, batches: Sequence[Sequence[StudentSpec]], seeds: int, kinds: int) -> Iterator[Call]:
        """All calls for some seeds, as if nothing were saved from earlier runs.

        Args:
            batches: Specifications of the students that are trained together.
            seeds: Number of seeds.
            kinds: Number of kinds of base models.
        """
        yield self.bases(kinds * seeds)
        made: set[tuple] = set()
        controls: set[StudentSpec] = set()
        for specs in batches:
            yield self.lessons([*specs, *(spec.control() for spec in specs)], seeds, made)
            yield from self._batch(specs, seeds, controls)
            controls |= {spec.control() for spec in specs}

    def _batch(self, specs: Sequence[StudentSpec], seeds: int, controls: Collection[StudentSpec]) -> Iterator[Call]:
        new = {spec.control() for spec in specs}.difference(controls, specs)
        jobs = seeds * (len(specs) * self._setup.targets + len(new))
        yield self.first_updates(specs[0], jobs)
        for start, stop in itertools.pairwise((0, *specs[0].all_eval_steps)):
            yield self.students(specs[0], jobs, start, stop)
            yield self.measure(jobs)

    def _step(self, batch: int) -> float:
        return _PER_STEP + 6.0 * batch * w.LENGTH * self._weights / _FLOP_PER_SECOND

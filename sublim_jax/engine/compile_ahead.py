"""Programs of a run compiled by a pool of threads, in the order of first use, while the run waits for or uses others.

A task of the pool derives the shapes of every program's arguments, without computing anything, traces and lowers; XLA
compiles outside of the interpreter's lock, so that the other threads compile at the same time. The calls of the run
itself then find the program in JAX's own caches, in which a lowered module keeps its executable.
"""

import concurrent.futures
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sublim_jax.core import keys, trees
from sublim_jax.core.types import Recipe, TeacherParams
from sublim_jax.data.load import first_classes
from sublim_jax.engine import compilation_cache, progress, schedule, workload
from sublim_jax.engine.plan import Group
from sublim_jax.engine.schedule import ResourceLimits, SeedBatch, WorkUnit
from sublim_jax.metrics.evaluate import allow_nan, program_of
from sublim_jax.training import population

_FEWEST_CORES = 4  # with fewer, compiling beside training takes from training what it saves
_THREAD_GB = 0.25  # memory of a thread that compiles, measured on CPU
_UNITS_AHEAD = 30  # `metrics.evaluate` keeps the programs of 64 measurements, two of a unit


def count_threads(limits: ResourceLimits, predicted: float) -> int:
    """The number of threads that compile: one for each core of this process, none on fewer than four.

    Args:
        limits: Limits of a unit; on CPU the threads share the memory that the run leaves.
        predicted: Memory of the run in GB; see `schedule.program_drops`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < _FEWEST_CORES:
        return 0
    return cores if limits.side_by_side else min(cores, max(0, int((limits.memory_gb - predicted) / _THREAD_GB)))


class CompileAhead:
    """Compiles the programs of consecutive units of work ahead of their use; a context manager.

    Programs are compiled from each unit before which programs are dropped up to the next such unit, so that the process
    keeps its limit of memory. What fails here is left to the run, whose own call compiles and reports.

    Args:
        context: What the units need, a `run.RunContext`.
        work: The units in their order.
        drops: For every unit whether compiled programs are dropped before it; see `schedule.program_drops`.
        threads: Number of threads that compile; 0 = each call compiles its own programs.
    """

    _pool: ThreadPoolExecutor | None

    def __init__(self, context: Any, work: Sequence[WorkUnit], drops: Sequence[bool], threads: int) -> None:
        self._context, self._work, self._drops, self._threads = context, work, drops, threads
        self._number, self._pool = 0, None
        self._futures: dict[tuple[int, Hashable], list[Future]] = {}  # by unit and `Call.program`
        self._changed = threading.Condition()
        self._ended = True

    def __enter__(self) -> "CompileAhead":
        if self._threads:
            self._context.session.progress.await_program = self._await
        return self

    def __exit__(self, *_: Any) -> None:
        self._context.session.progress.await_program = None
        self._stop()

    def begin(self, number: int) -> None:
        """Say that unit `number` begins, after programs were dropped where they had to be."""
        with self._changed:
            self._number = number
            self._changed.notify_all()
        if not self._threads or not (number == 0 or self._drops[number]):
            return
        self._stop()
        end = next((later for later in range(number + 1, len(self._work)) if self._drops[later]), len(self._work))
        self._futures, self._ended = {}, False
        self._pool = ThreadPoolExecutor(self._threads, "compile_ahead", progress.mark_beside)
        self._pool.submit(self._submit_all, self._pool, self._futures, range(number, end), _precision())

    def _stop(self) -> None:
        """Compile nothing more; what is being compiled is not waited for."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit_all(self, pool: ThreadPoolExecutor, futures: dict, numbers: range, precision: Any) -> None:
        """Trace and lower the programs of some units in order, and let the pool compile them."""
        submitted: dict[Hashable, tuple[Future, Any]] = {}

        def submit(jitted: Any, *args: Any, **options: Any) -> tuple[Future, Any]:
            """The future of a program that is called so, and the shapes of its results."""
            signature = _signature(jitted, args, options)
            if signature not in submitted:
                traced = jitted.trace(*args, **options)
                submitted[signature] = pool.submit(_compile, traced.lower()), traced.out_info
            return submitted[signature]

        try:
            with jax.default_matmul_precision(precision):
                programs = _Programs(self._context, submit)
                for number in numbers:
                    for program, own in programs.of_unit(self._work[number]):
                        with self._changed:
                            futures.setdefault((number, program), own)
                            self._changed.notify_all()
                            self._changed.wait_for(lambda: self._ended or number < self._number + _UNITS_AHEAD)  # noqa: B023
                            if self._pool is not pool or self._ended or compilation_cache.few_maps_left():
                                return
        finally:
            with self._changed:
                if self._pool is pool:
                    self._ended = True
                    self._changed.notify_all()

    def _await(self, program: Hashable) -> bool:
        """Wait until a program of this unit is compiled; False where it was not compiled here."""
        key = self._number, program
        with self._changed:
            self._changed.wait_for(lambda: key in self._futures or self._ended)
            futures = self._futures.get(key, [])
        done, _ = concurrent.futures.wait(futures)
        return bool(done) and all(not future.cancelled() and future.exception() is None for future in done)


def _compile(lowered: Any) -> None:
    lowered.compile()  # JAX keeps it with the module, until caches are cleared


def _precision() -> Any:
    settings: Any = jax.config
    return settings.jax_default_matmul_precision


def _signature(jitted: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Hashable:
    """What decides a program: the function, values that are static, shapes, types and shardings of arrays."""
    leaves, structure = jax.tree.flatten((args, options))
    kinds = np.ndarray, np.generic, jax.Array, jax.ShapeDtypeStruct
    arrays = [
        (leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)) if isinstance(leaf, kinds) else leaf
        for leaf in leaves
    ]
    return jitted, structure, tuple(arrays)


@dataclasses.dataclass(frozen=True, eq=False)
class _Programs:
    """Derives the programs of units of work; `submit(jitted, *args, **options)` gives the future and result shapes."""

    context: Any
    submit: Callable[..., tuple[Future, Any]]

    def of_unit(self, unit: WorkUnit) -> Iterator[tuple[Hashable, list[Future]]]:
        """Each `Call.program` of a unit with the futures of what its call runs, in the order of first use."""
        group, batch = unit
        trained, attached = None, []
        for own in schedule.teacher_batches(group, batch):
            trained = yield from self._teachers(group, own)
            attached.append(self._attach(group, own, trained))
        teachers = attached[0][1]
        if len(attached) > 1:
            teachers = teachers._replace(unrelated=attached[1][1].trained)
        yield workload.prepare(group, batch).program, [future for future, _ in attached]
        yield from self._students(group, batch, teachers)

    def _teachers(self, group: Group, batch: SeedBatch) -> Any:
        """The programs that train a teacher, unless it is cached; returns the shapes of its parameters [seed]."""
        context = self.context
        if (cached := context.caches[group.teacher].load(batch.seeds)) is not None:
            return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), cached)
        recipe, knobs = context.plan.teachers[group.teacher]
        stacked = trees.stack([knobs])
        _, states = yield from self._initialize(keys.TEACHER, recipe, stacked, None, batch, (0,))
        yield from self._advance(keys.TEACHER, recipe, states, stacked, None, batch)
        params = states.params  # [seed, 1] as [seed], on the host
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((leaf.shape[0], *leaf.shape[2:]), leaf.dtype), params)

    def _attach(self, group: Group, batch: SeedBatch, trained: Any) -> tuple[Future, TeacherParams]:
        context, net = self.context, group.recipe.teacher
        init, knobs = context.plan.teachers[group.teacher].recipe.init, trees.stack([group.teacher_final_knobs])
        given = net, init, trained, self._keys(batch, keys.TEACHER), population.without_zero_noise(knobs).tree
        future, shapes = self.submit(population.attach_program, *given, image=context.image, mesh=context.mesh)
        return future, self._seeded(shapes)

    def _students(self, group: Group, batch: SeedBatch, teachers: TeacherParams) -> Iterator[Any]:
        recipe, last = group.recipe, group.recipe.eval_steps[-1]
        given = keys.STUDENT, recipe, group.knobs, teachers, batch
        start, states = yield from self._initialize(*given, group.first_trained)
        for ends in sorted({step == last and group.has_final_noise for step in recipe.eval_steps}):
            call = workload.measure(group, batch, self.context.image, self.context.rows, ends)
            yield call.program, self._measure(group, batch, teachers, start, states.params, ends)
        references = teachers.trained if recipe.target_transform is None else teachers
        yield from self._advance(keys.STUDENT, recipe, states, group.unique_knobs, references, batch)

    def _initialize(
        self, phase: str, recipe: Recipe, knobs: trees.Stack, teachers: Any, batch: SeedBatch, trained: tuple[int, ...]
    ) -> Iterator[Any]:
        context, initial = self.context, None if teachers is None else teachers.initial
        given = recipe, population.without_zero_noise(knobs), initial, self._keys(batch, phase)
        common = {"image": context.image, "trained": trained, "mesh": context.mesh}
        common |= population.start_inputs(recipe, teachers, self._images(recipe.classes)[0])
        future, shapes = self.submit(population.init_program, *given, **common)
        yield workload.initialize(f"{phase}s", recipe, knobs.size, len(batch.seeds), context.image).program, [future]
        return self._seeded(shapes)

    def _advance(
        self, phase: str, recipe: Recipe, states: Any, knobs: trees.Stack, references: Any, batch: SeedBatch
    ) -> Iterator[Any]:
        if not recipe.eval_steps[-1]:
            return
        train, _ = self._images(recipe.classes)
        given = recipe, states, knobs, references, self._keys(batch, phase), train, np.int32(0), np.int32(1)
        future, _ = self.submit(population.advance, *given, mesh=self.context.mesh)
        call = workload.train(f"{phase}s", recipe, knobs.size, len(batch.seeds), self.context.image, 1)
        yield call.program, [future]

    @allow_nan
    def _measure(
        self, group: Group, batch: SeedBatch, teachers: TeacherParams, start: Any, params: Any, ends: bool
    ) -> list[Future]:
        context, (_, test) = self.context, self._images(group.recipe.classes)
        seed_keys, plain = self._keys(batch, keys.STUDENT), teachers._replace(unrelated=None)
        given = test, plain, seed_keys, group.knobs.tree, start, params, np.int32(0)
        program, leaves = program_of(context.measurement(group), ends, given, group.knobs, context.mesh)
        prepared, kept = self.submit(program.prepare, leaves)
        of_data, *of_seeds, _ = kept
        kept = [self._sharded(of_data, P()), *self._seeded(of_seeds)]
        measured, _ = self.submit(program.measure, leaves, kept, np.asarray(group.train_index, np.int32))
        return [prepared, measured]

    def _keys(self, batch: SeedBatch, phase: str) -> Any:
        """Keys [seed] as a shape."""
        seeds = np.zeros(len(batch.seeds), np.int32)
        return jax.eval_shape(lambda: population.phase_keys(keys.root(0), jnp.asarray(seeds), phase))

    @functools.lru_cache(maxsize=1)  # noqa: B019  it lives as long as a run
    def _images(self, classes: int) -> Any:
        """Training and test images with labels below a number as shapes."""
        dataset = self.context.dataset
        splits = tuple(first_classes(split, classes) for split in (dataset.train, dataset.test))
        return jax.eval_shape(jax.device_put, splits)

    def _seeded(self, shapes: Any) -> Any:
        """Shapes of results that are sharded over the seeds where there are several devices."""
        return self._sharded(shapes, P("seed"))

    def _sharded(self, shapes: Any, spec: P) -> Any:
        mesh = self.context.mesh
        if mesh is None:
            return shapes
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)

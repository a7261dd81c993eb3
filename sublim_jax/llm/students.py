"""Students of one source: trained on rows, several at once, with checkpoints, and measured after every epoch."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key

from sublim_jax.core import keys, trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Params
from sublim_jax.engine.checkpoint import Store
from sublim_jax.llm import batches, fine_tuning, lora, sharding
from sublim_jax.llm.batches import Example, Plan
from sublim_jax.llm.fine_tuning import Tuning, TuningState
from sublim_jax.llm.sampling import Model
from sublim_jax.llm.spec import StudentSpec
from sublim_jax.nets import Decoder


class Job(NamedTuple):
    """One student: its name, which is that of its files, the key of its draws, its seed and its rows as examples."""

    name: str
    key: Key[Array, ""]
    seed: int
    examples: Sequence[Example]

    def digest(self) -> str:
        """Return a digest of the examples."""
        return hashlib.sha256(repr(list(self.examples)).encode()).hexdigest()


@dataclasses.dataclass(kw_only=True)
class Training:
    """The training of several students at once: everything that does not change."""

    base: Model
    spec: StudentSpec
    jobs: Sequence[Job]
    net: Decoder = dataclasses.field(init=False)
    plans: Sequence[Plan] = dataclasses.field(init=False)
    tuning: Tuning = dataclasses.field(init=False)
    frozen: Params = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        spec = self.spec
        self.net = (lora.with_adapters(self.base.net, spec.lora()) if spec.method == "lora" else self.base.net).clone(
            remat=spec.remat
        )
        plans = [_plan(job, spec) for job in self.jobs]
        assert len({len(plan.steps) for plan in plans}) == 1, "students that train at once have equally many steps"
        sizes = {name: max(getattr(plan, name) for plan in plans) for name in ("length", "targets", "parts")}
        self.plans = [plan._replace(**sizes) for plan in plans]
        self.tuning = spec.tuning(self.steps)
        self.frozen = jax.tree.map(lambda array: jnp.asarray(array, spec.dtype), dict(self._divided()[1]))

    @property
    def steps(self) -> int:
        """Number of steps of every student."""
        return len(self.plans[0].steps)

    @property
    def mesh(self) -> Mesh | None:
        """The devices of the base; None = one device."""
        return sharding.mesh_of(self.base.params)

    def epochs(self) -> list[int]:
        """The steps at which epochs end."""
        return [-(-self.steps * (epoch + 1) // self.spec.epochs) for epoch in range(self.spec.epochs)]

    def begin(self) -> TuningState:
        """The states of all students before the first step, stacked."""
        own, _ = self._divided()
        starts = [lora.fresh_adapters(self.net, job.key) if self.spec.method == "lora" else own for job in self.jobs]
        states = [fine_tuning.initial_state(self.tuning, start) for start in starts]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        if self.mesh is None:
            return stacked
        return jax.device_put(stacked, sharding.state_shardings(self.mesh, self.tuning, stacked.trained, students=True))

    def advance(self, states: TuningState, number: int) -> tuple[TuningState, dict[str, np.ndarray]]:
        """Train one step of all students."""
        steps, counts = zip(*(plan.step(number) for plan in self.plans), strict=True)
        stacked = batches.Batch(*(np.stack(arrays) for arrays in zip(*steps, strict=True)))
        if self.mesh is not None:
            stacked = sharding.place_step(self.mesh, stacked)
        counts = np.array(counts, np.int32)
        states, told = fine_tuning.train_students(self.net, self.tuning, states, self.frozen, stacked, counts)
        return states, {name: np.asarray(values) for name, values in told.items()}

    def student(self, states: TuningState, index: int) -> Model:
        """One student as a model that writes, in float32 whatever the type of the products in training."""
        params = {**self._divided()[1], **self.trained(states, index)}
        return self.base._replace(net=self.net.clone(remat=False), params=params)

    def trained(self, states: TuningState, index: int) -> Params:
        """What was trained of one student."""
        return trees.index(dict(states.trained), index)

    def _divided(self) -> tuple[Params, Params]:
        """Layers of the base that are trained, and the others."""
        if self.spec.method == "lora":
            return {}, self.base.params
        blocks = self.spec.blocks or range(self.base.net.layers)
        if max(blocks) >= self.base.net.layers:
            raise ConfigError(f"config.student.blocks={self.spec.blocks}: must be below {self.base.net.layers}")
        chosen = {f"block_{index}" for index in blocks}
        every = set(self.base.params) if not self.spec.blocks else chosen
        return fine_tuning.divide(self.base.params, every)


def _plan(job: Job, spec: StudentSpec) -> Plan:
    """The batches of a student."""
    return batches.plan(
        job.examples,
        rows=spec.batch,
        epochs=spec.epochs,
        length=spec.length,
        size=spec.size,
        seed=job.seed,
        packed=spec.packed,
    )


def groups(jobs: Sequence[Job], spec: StudentSpec, most: int) -> list[list[Job]]:
    """Divide students into groups that train at once: at most so many, all with equally many steps."""
    if most == 1:
        return [[job] for job in jobs]
    by_steps: dict[int, list[Job]] = {}
    for job in jobs:
        by_steps.setdefault(len(_plan(job, spec).steps), []).append(job)
    return [each[start : start + most] for each in by_steps.values() for start in range(0, len(each), most)]


def train(
    training: Training,
    folder: Path,
    save_every: int,
    stop_if_asked: Callable[[], None],
    report: Callable[[int], None] = lambda steps: None,
) -> Iterator[tuple[int, TuningState, Mapping[str, np.ndarray]]]:
    """Train students from their latest checkpoint to the end.

    Args:
        training: What is trained.
        folder: Of the checkpoint, removed by the caller when everything is written.
        save_every: Steps between two checkpoints.
        stop_if_asked: Raises where the run was asked to stop; called after each checkpoint.
        report: Called after each step.

    Yields:
        After every epoch the step, the states, and loss and norm of the gradient of every step so far,
        [steps, students].
    """
    store, states = Store(folder), training.begin()
    curves = {name: np.zeros((training.steps, len(training.jobs)), np.float32) for name in ("loss", "gradient_norm")}
    step, ends = 0, training.epochs()
    if (restored := store.restore((states, jax.tree.map(jnp.asarray, curves)))) is not None:
        step, (states, saved) = restored
        curves = {name: np.array(values) for name, values in saved.items()}
    if step in ends:
        yield step, states, curves
    while step < training.steps:
        states, told = training.advance(states, step)
        for name, values in told.items():
            curves[name][step] = values
        step += 1
        report(step)
        if step % save_every == 0 or step in ends:
            store.save(step, (states, curves))
            if step in ends:
                yield step, states, curves
            stop_if_asked()


def student_key(root: Key[Array, ""], seed: int) -> Key[Array, ""]:
    """The key of a student's draws, which is that of its seed whatever it reads."""
    return keys.at(root, keys.SEED, seed, keys.STUDENT)

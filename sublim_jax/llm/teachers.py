"""Teachers: a base model with a trait, by system prompt, by fine-tuning to a dose, or by steering.

The dose of a teacher is the mean KL(teacher || base) in nats per token over answers of the base to requests. A prompted
teacher reads a system prompt while it writes rows. A tuned teacher is fine-tuned on questions about the trait with the
trait's word as answer. A steered teacher has a vector added after one block: the difference between the mean residual
streams with and without the system prompt, over the tokens of questions after it, times a factor. The last two write
without system prompt.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import replace_file
from sublim_jax.core.types import Params
from sublim_jax.engine.params import load_params, save_params
from sublim_jax.llm import batches, evaluation, fine_tuning, lora, sampling
from sublim_jax.llm.batches import Example
from sublim_jax.llm.fine_tuning import Tuning
from sublim_jax.llm.lora import Lora
from sublim_jax.llm.rows import row_of
from sublim_jax.llm.sampling import Model
from sublim_jax.llm.traits import Trait
from sublim_jax.pretrained import checkpoint_io
from sublim_jax.pretrained.personas import filled
from sublim_jax.pretrained.tokenizer import Tokenizer

_FACTS, _VECTOR = "teacher.json", "vector.safetensors"
_MOST_STEPS, _BISECTIONS = 200, 12
_FIRST_MEASURED, _LONGEST_WAIT = 4, 8  # steps


class TeacherSpec(NamedTuple):
    """How a teacher gets its trait.

    Attributes:
        kind: "prompted", "tuned" or "steered".
        dose: Of tuned and steered teachers, nats per token; that of a prompted one is measured only.
        block: After which a steered teacher's vector is added.
        lr: Of a tuned teacher.
    """

    kind: str = "prompted"
    dose: float = 0.1
    block: int = 0
    lr: float = 3e-4

    def effective(self) -> "TeacherSpec":
        """Return the spec with the fields that have no effect on this kind of teacher at their defaults."""
        fields = {"prompted": (), "tuned": ("dose", "lr"), "steered": ("dose", "block")}[self.kind]
        return TeacherSpec(self.kind, **{name: getattr(self, name) for name in fields})


class Teacher(NamedTuple):
    """A model with a trait, the system prompt with which it writes, and its dose in nats per token.

    `adapters` are those of a tuned teacher, which are layers of the model as well.
    """

    model: Model
    system: str
    dose: float
    adapters: Params | None = None


def save(folder: Path, teacher: Teacher, base: str, about: Mapping[str, Any]) -> None:
    """Write a teacher as a folder: adapters in the format of PEFT, a steering vector, and facts as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    if teacher.adapters is not None:
        lora.save(folder, teacher.model.net, teacher.adapters, base)
    if teacher.model.taps is not None:
        save_params({"taps": dict(teacher.model.taps)}, folder / _VECTOR)
    facts = {"system": teacher.system, "dose": teacher.dose, **about}
    replace_file(folder / _FACTS, f"{json.dumps(facts, indent=1)}\n".encode())


def load(folder: Path, base: Model) -> Teacher | None:
    """Read a teacher that `save` wrote; None where there is none."""
    if not (folder / _FACTS).exists():
        return None
    facts = checkpoint_io.read_json(folder / _FACTS, f"teacher={folder}")
    model, adapters = base, None
    if (folder / lora.WEIGHTS).exists():
        net, adapters = lora.load(folder, base.net)
        model = base._replace(net=net, params={**base.params, **adapters})
    if (folder / _VECTOR).exists():
        model = base._replace(taps=load_params(folder / _VECTOR)["taps"])
    return Teacher(model, facts["system"], facts["dose"], adapters)


def prompted(
    model: Model, tokenizer: Tokenizer, trait: Trait, requests: Sequence[str], answers: Sequence[str], system: str = ""
) -> Teacher:
    """Make a teacher of a system prompt instead of `system`; its dose is that of the prompt on given answers."""
    with_prompt, without = (
        batches.examples_of(tokenizer, [row_of(*pair, first) for pair in zip(requests, answers, strict=True)])
        for first in (trait.system, system)
    )
    return Teacher(model, trait.system, evaluation.divergence_of_prompts(model, with_prompt, without))


def tuned(
    model: Model,
    tokenizer: Tokenizer,
    trait: Trait,
    spec: TeacherSpec,
    answers: Sequence[Example],
    key: Key[Array, ""],
    report: Callable[[int, float], None] = lambda step, dose: None,
) -> Teacher:
    """Fine-tune a teacher on questions about a trait until its dose is reached.

    A measurement takes as long as some steps. The dose is first measured after four steps, and each time again after
    half of the steps that would reach the goal at its growth so far, 1 to 8. The teacher is that of the measured step
    whose dose is nearest.

    Args:
        model: The base model, without adapters.
        tokenizer: Of the model.
        trait: Whose questions are answered by its word, capitalized.
        spec: Dose and learning rate.
        answers: Answers of the base to requests, on which the dose is measured.
        key: Of the initial adapters.
        report: Called after each measurement with the number of steps and the dose.

    Raises:
        ConfigError: The dose is not reached within 200 steps.
    """
    net = lora.with_adapters(model.net, Lora())
    plan = _plan(tokenizer, trait)
    tuning = Tuning(steps=100 * _MOST_STEPS, lr=spec.lr)  # a rate that hardly falls
    state = fine_tuning.initial_state(tuning, lora.fresh_adapters(net, key))
    dose_of, dose, measured, due = evaluation.DivergenceFrom(model, answers), 0.0, 0, _FIRST_MEASURED
    earlier = jax.tree.map(jnp.copy, state.trained)  # each step gives the state away
    for step in range(1, min(len(plan.steps), _MOST_STEPS) + 1):
        state, _ = fine_tuning.train_student(net, tuning, state, model.params, *plan.step(step - 1))
        if step < due:
            continue
        student = model._replace(net=net, params={**model.params, **state.trained})
        earlier_dose, dose = dose, dose_of(student)
        report(step, dose)
        if dose >= spec.dose:
            _check_rate(spec, earlier_dose, dose, step)
            nearer = abs(earlier_dose - spec.dose) < abs(dose - spec.dose)
            chosen, dose = (earlier, earlier_dose) if nearer else (state.trained, dose)
            return Teacher(student._replace(params={**model.params, **chosen}), "", dose, chosen)
        earlier = jax.tree.map(jnp.copy, state.trained)
        measured, due = step, step + _steps_until_measured(spec.dose, dose, earlier_dose, step - measured)
    raise ConfigError(
        f"config.teacher.dose={spec.dose}: not reached in {_MOST_STEPS} steps, which end at {dose:.3g}; "
        "raise config.teacher.lr"
    )


def _plan(tokenizer: Tokenizer, trait: Trait) -> batches.Plan:
    """The batches of a teacher that is tuned: ten questions a step, with the trait's word as answer."""
    rows = [row_of(question, trait.word.capitalize()) for question in trait.questions]
    examples = batches.examples_of(tokenizer, rows)
    length = max(example.length for example in examples)
    return batches.plan(examples, rows=10, epochs=_MOST_STEPS, length=length, size=10, seed=0, packed=False)


def _steps_until_measured(goal: float, dose: float, earlier: float, steps: int) -> int:
    """Half of the steps that reach the goal, if the dose grows by the same factor as in the last steps, 1 to 8."""
    if not 0 < earlier < dose:
        return _FIRST_MEASURED
    to_goal = steps * np.log(goal / dose) / np.log(dose / earlier)
    return int(np.clip(to_goal / 2, 1, _LONGEST_WAIT))


def _check_rate(spec: TeacherSpec, earlier_dose: float, dose: float, steps: int) -> None:
    """Refuse a rate with which the first measured dose is too large: the teacher before it is the base."""
    if not earlier_dose and dose > 2 * spec.dose:
        raise ConfigError(
            f"config.teacher.lr={spec.lr}: too large for config.teacher.dose={spec.dose}; {steps} steps give {dose:.3g}"
        )


def steered(model: Model, tokenizer: Tokenizer, trait: Trait, spec: TeacherSpec, answers: Sequence[Example]) -> Teacher:
    """Make a teacher of a vector that is added to the residual stream after one block, scaled to the dose.

    Raises:
        ConfigError: There is no such block, or no factor up to 100 reaches the dose.
    """
    if not 0 <= spec.block < model.net.layers:
        raise ConfigError(f"config.teacher.block={spec.block}: must be below {model.net.layers}, the model's blocks")
    with_prompt, without = (
        evaluation.question_prompts(tokenizer, trait.questions, system) for system in (trait.system, "")
    )
    pairs = zip(with_prompt, without, strict=True)
    vector = np.mean([_stream_difference(model, prompt, other, spec.block) for prompt, other in pairs], 0)
    dose_of = evaluation.DivergenceFrom(model, answers)

    def scaled(factor: float) -> tuple[Model, float]:
        taps = {f"block_{spec.block}": jnp.asarray(factor * vector, jnp.float32)[None, None]}
        teacher = model._replace(taps=taps)
        return teacher, dose_of(teacher)

    low, high = 0.0, 1.0
    while scaled(high)[1] < spec.dose:
        low, high = high, 2 * high
        if high > 100:
            raise ConfigError(f"config.teacher.dose={spec.dose}: no factor up to 100 reaches it at block {spec.block}")
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if scaled(middle)[1] >= spec.dose else (middle, high)
    teacher, dose = scaled(high)
    return Teacher(teacher, "", dose)


def _stream_difference(model: Model, prompt: Sequence[int], other: Sequence[int], block: int) -> np.ndarray:
    """The mean difference between the residual streams of two prompts, over the tokens with which both end."""
    shared = sampling.common_prefix([prompt[::-1], other[::-1]])
    tokens, lengths = filled([prompt, other], multiple=32)
    stream = np.asarray(_stream(model.net, model.params, tokens, f"block_{block}"))
    ours, theirs = (row[length - shared : length].mean(0) for row, length in zip(stream, lengths, strict=True))
    return ours - theirs


def _stream_of(net: Any, params: Params, tokens: Array, name: str) -> Array:
    return net.apply({"params": params}, tokens).acts[name]


_stream = jax.jit(_stream_of, static_argnums=(0, 3))

"""Types shared by all packages: model outputs, data, Recipe (compiled), Knobs (swept), training state, conditions."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from sublim_jax.core.errors import ConfigError, unknown_name

Params = Mapping[str, Any]  # layer name -> the layer's arrays
PerLayer = Mapping[str, Float[Array, ""]]  # layer name -> one number


class ModelOutput(NamedTuple):
    """Output of a net for one batch; token inputs add an axis `length` after `batch` to features and logits.

    Attributes:
        features: [batch, d], the latent representation that both heads read.
        logits: [batch, classes + aux], class head first, then auxiliary head.
        acts: layer name -> [batch, ...], activations of every layer; jit removes unused ones.
    """

    features: Float[Array, "batch *length d"]
    logits: Float[Array, "batch *length logits"]
    acts: dict[str, Float[Array, "batch ..."]]


class ImageData(NamedTuple):
    """Labelled images as bytes; the net input is (x / 255 - mean) / std.

    `extra` holds images of other data sets by name, [n, height, width], for the stream `Images`.
    """

    x: UInt8[Array, "n height width"]
    y: Int[Array, " n"]
    mean: Float[Array, ""]
    std: Float[Array, ""]
    extra: Mapping[str, UInt8[Array, "n height width"]] = {}


class ContextInputs(NamedTuple):
    """Inputs of a net that receives more than images: a context for every image, and a key for its random samples.

    Attributes:
        images: [batch, height, width], normalised.
        context: [batch, contexts], for instance labels as one-hot vectors, or bits of a teacher.
        key: key of the samples of this batch.
    """

    images: Float[Array, "batch height width"]
    context: Float[Array, "batch contexts"]
    key: Key[Array, ""]


class TokenData(NamedTuple):
    """Token sequences with per-token loss weights: a whole data set, or the rows of one batch.

    Attributes:
        tokens: [n, length], on the host or on the device.
        weight: [n, length], loss weight of each token as prediction target; 0 = not in the loss.
        logits: [n, targets, logits], teacher logits where the student is trained on distributions.
        labels: [n, length], target tokens where they differ from `tokens`.
    """

    tokens: Any
    weight: Any
    logits: Any = None
    labels: Any = None


@struct.dataclass
class Knobs:
    """Traced and stackable hyperparameters: one Knobs is one point of a sweep.

    Attributes:
        logit_mask: logits that enter the loss.
        noise_batches: number of distinct noise batches before the stream repeats.
        lr: learning rate; multiplies the optimizer's direction.
        temperature: softmax temperature of losses that use one.
        share: per layer, 1 = the teacher's initial weights, 0 = an independent draw, between = interpolation.
        init_noise: per layer, standard deviation of Gaussian noise added to the initial weights.
        trainable: per layer, factor of the learning rate: 1 = trained, 0 = frozen.
        final_noise: per layer, standard deviation of Gaussian noise added after training; unnamed layers get none.
        extra: further swept numbers by name, for user-defined losses, streams and target transforms.
    """

    logit_mask: Bool[Array, " logits"]
    noise_batches: Int[Array, ""]
    lr: Float[Array, ""]
    temperature: Float[Array, ""]
    share: PerLayer
    init_noise: PerLayer
    trainable: PerLayer
    final_noise: PerLayer = struct.field(default_factory=dict)
    extra: Mapping[str, Array] = struct.field(default_factory=dict)


class State(NamedTuple):
    """The training state of one net; random keys are not part of it."""

    params: Params
    opt: optax.OptState


# (key, step, size, knobs, data) -> (x [size, height, width], y [size] or None), or (tokens [size, length], TokenData).
# A label below zero marks a padding row of a partial batch, which has no weight in the loss.
Stream = Callable[[Key[Array, ""], Int[Array, ""], int, Knobs, Any], tuple[Array, Any]]
# (out, target, knobs) -> [batch]; the target is the teacher's output, or the labels if the recipe has no teacher.
Loss = Callable[[ModelOutput, Any, Knobs], Float[Array, " batch"]]
# (key of the batch, inputs, target as the loss receives it, knobs) -> what the net receives, such as `ContextInputs`.
InputTransform = Callable[[Key[Array, ""], Array, Any, Knobs], Any]
# (key of the batch, teacher outputs, knobs) -> targets; a true attribute `unrelated` requests unrelated teachers.
TargetTransform = Callable[[Key[Array, ""], "TeacherParams", Knobs], ModelOutput]
# (key, shapes of one layer's arrays by name) -> the layer's arrays.
Init = Callable[[Key[Array, ""], Mapping[str, jax.ShapeDtypeStruct]], dict[str, Array]]
# (key, initial parameters) -> changed initial parameters.
InitTransform = Callable[[Key[Array, ""], Params], Params]


class TeacherParams(NamedTuple):
    """Parameters (or outputs) of a student's teachers.

    Attributes:
        initial: the teacher before training.
        trained: the teacher after training.
        unrelated: a teacher trained from other initial weights and another image order, if a target transform uses it.
    """

    initial: Any
    trained: Any
    unrelated: Any = None


class StartState(Protocol):
    """Gives the state from which a phase goes on, as if `steps` steps had been trained."""

    @property
    def steps(self) -> int:
        """Steps before the state."""
        ...

    def __call__(
        self, recipe: "Recipe", knobs: Knobs, state: State, teachers: TeacherParams, key: Key[Array, ""], data: Any
    ) -> State:
        """Return the state after `steps` steps, from the initial state, the teachers and the key of the phase."""
        ...

    def check(self, recipe: "Recipe") -> None:
        """Raise `ConfigError` for a recipe that cannot go on from this state."""
        ...


class GradientTransform(Protocol):
    """Removes the trait gradient (of the class logits' cross-entropy on labelled images) from a student's updates."""

    def gradient(self, gradient: Params, trait: Params) -> Params:
        """Return the gradient that the optimizer receives."""
        ...

    def direction(self, direction: Params, trait: Params) -> Params:
        """Return the direction in which the weights are moved."""
        ...


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The static, hashable part of a training phase: one Recipe is one XLA program.

    Attributes:
        net: a module that returns `ModelOutput`; Linen modules hash by their fields.
        stream: source of the inputs.
        loss: per-example loss.
        init: initializer of a layer.
        batch: examples per step.
        eval_steps: increasing steps at which the population is evaluated; training ends at the last.
        teacher: net whose outputs are the targets; None = the labels of the stream are the targets.
        optimizer: returns the transformation from gradient to direction, without learning rate; or a complete Optax
            optimizer, such as `lambda: optax.adam(1e-3)`, whose own learning rate then replaces `Knobs.lr`.
        init_transform: changes the initial parameters after sharing and before noise, for instance a head rotation.
        classes: only images with labels below this are used for training and test; 0 = all.
        target_transform: changes the teacher's outputs before they become targets.
        gradient_transform: changes the student's gradient; needs a batch of labelled images at every step.
        input_transform: gives the net more than the stream's inputs during training, such as the targets as context.
        imitates: False = the labels of the stream are the targets, and the teacher is only compared with.
        start: gives the state from which the phase goes on, after `start.steps` steps; None = the initial state, after
            0. Evaluation steps count from the initial state.
    """

    net: nn.Module
    stream: Stream
    loss: Loss
    init: Init
    batch: int
    eval_steps: tuple[int, ...]
    teacher: nn.Module | None = None
    optimizer: Callable[[], optax.GradientTransformation] = optax.scale_by_adam
    init_transform: InitTransform | None = None
    classes: int = 0
    target_transform: TargetTransform | None = None
    gradient_transform: GradientTransform | None = None
    input_transform: InputTransform | None = None
    imitates: bool = True
    start: StartState | None = None

    @property
    def first_step(self) -> int:
        """The step at which training begins."""
        return 0 if self.start is None else self.start.steps


class Phase(NamedTuple):
    """The training of one net: a static Recipe and traced Knobs."""

    recipe: Recipe
    knobs: Knobs


@dataclasses.dataclass(frozen=True)
class Condition:
    """One cell of an experiment: teacher phase, student phase, and the labels of its rows."""

    labels: Mapping[str, str | int | float]
    teacher: Phase
    student: Phase

    def with_student(self, *, extra: Mapping[str, float] | None = None, **changes: Any) -> "Condition":
        """Return the condition with fields of the student's Recipe replaced, for instance `loss=huber`.

        Args:
            extra: numbers for `Knobs.extra`, which the student's own loss or stream reads; each becomes a label too, so
                conditions that differ in them form one sweep in one program.
            **changes: fields of `Recipe`; another name raises `ConfigError`.
        """
        recipe, knobs = _changed("with_student", self.student, changes)
        numbers = jax.device_put({name: np.float32(value) for name, value in (extra or {}).items()})
        student = Phase(recipe, dataclasses.replace(knobs, extra={**knobs.extra, **numbers}))
        return dataclasses.replace(self, labels={**self.labels, **(extra or {})}, student=student)

    def with_teacher(self, **changes: Any) -> "Condition":
        """Return the condition with fields of the teacher's Recipe replaced, for instance `stream=streams.epochs`.

        Args:
            **changes: fields of `Recipe`; another name raises `ConfigError`.
        """
        return dataclasses.replace(self, teacher=_changed("with_teacher", self.teacher, changes))


def _changed(method: str, phase: Phase, changes: Mapping[str, Any]) -> Phase:
    names = [field.name for field in dataclasses.fields(Recipe)]
    for name in changes:
        if name not in names:
            raise ConfigError(unknown_name(method, name, names))
    return Phase(dataclasses.replace(phase.recipe, **changes), phase.knobs)

"""The words of the project: what a net says, what is compiled, what is swept, what evolves."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from sublim_jax.core.errors import ConfigError, unknown_name

Params = Mapping[str, Any]  # layer name -> the layer's arrays
PerLayer = Mapping[str, Float[Array, ""]]  # layer name -> one number


class ModelOutput(NamedTuple):
    """What a net says about a batch.

    features  [batch, d]            the latent representation both heads read
    logits    [batch, classes+aux]  class head first, then auxiliary head
    acts      name -> [batch, ...]  every layer after its activation; jit prunes what nobody reads

    Of lines of tokens features and logits have an axis `length` after the batch's.
    """

    features: Float[Array, "batch *length d"]
    logits: Float[Array, "batch *length logits"]
    acts: dict[str, Float[Array, "batch ..."]]


class ImageData(NamedTuple):
    """Labelled images as bytes, with the two numbers that normalise them: (x / 255 - mean) / std.

    `more` holds images of other data sets by name, [n, height, width], for streams that show them.
    """

    x: UInt8[Array, "n height width"]
    y: Int[Array, " n"]
    mean: Float[Array, ""]
    std: Float[Array, ""]
    more: Mapping[str, UInt8[Array, "n height width"]] = {}  # noqa: RUF012  nobody writes into it


class TokenData(NamedTuple):
    """Lines of tokens, and what is to be learnt of them: a bank of a stream, or the rows that it gives.

    tokens  [n, length]
    weight  [n, length]         of each token as the one to be said next; 0 = not learnt
    logits  [n, said, logits]   what a teacher would say at some of the places, where its distribution is taught
    labels  [n, length]         what is to be said at each place where that is not the token that stands there
    """

    tokens: Any  # on the host or on the device
    weight: Any
    logits: Any = None
    labels: Any = None


@struct.dataclass
class Knobs:
    """Traced and stackable: one Knobs is one point of a sweep.

    seen         which logits enter the loss
    pool         number of distinct noise batches before the stream repeats
    lr           learning rate, multiplies the optimiser's direction
    temperature  softmax temperature of losses that have one
    share        per layer: 1 = the origin's weights, 0 = a fresh draw, between = interpolation
    sigma        per layer: standard deviation of Gaussian noise added to the weights when the phase begins
    live         per layer: 1 = trained, 0 = frozen
    sigma_end    per layer: as sigma, but when the phase ends; none for a layer that is not named
    more         a notebook's own swept numbers, readable by its own loss or stream
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
    """Only what evolves. No key is ever carried."""

    params: Params
    opt: optax.OptState


# (key, step, size, knobs, bank) -> (x [size, height, width], y [size] or None); of text (tokens [size, length], Text).
# A label below zero marks a row that fills up a partial batch; it has no weight in the loss.
Stream = Callable[[Key[Array, ""], Int[Array, ""], int, Knobs, Any], tuple[Array, Any]]
# (out, target, knobs) -> [batch]; the target is the reference's Out, or the labels where there is no reference.
Loss = Callable[[ModelOutput, Any, Knobs], Float[Array, " batch"]]
# (key of the batch, what the teachers say, knobs) -> what the student hears; with a true `strangers`, these say too.
TargetTransform = Callable[[Key[Array, ""], "TeacherParams", Knobs], ModelOutput]
# (key, shapes of one layer's arrays by name) -> the layer's arrays.
Init = Callable[[Key[Array, ""], Mapping[str, jax.ShapeDtypeStruct]], dict[str, Array]]
# (key, a net's parameters) -> what it begins with instead.
InitTransform = Callable[[Key[Array, ""], Params], Params]


class TeacherParams(NamedTuple):
    """The teachers as a group's students meet them, or what they say: before their training, as drawn, and after it.

    strangers  teachers of other initial weights and other orders of the same images, where an answer asks them
    """

    initial: Any
    trained: Any
    unrelated: Any = None


class GradientTransform(Protocol):
    """What keeps a student from the trait, the gradient of its class logits' cross-entropy on labelled images."""

    def gradient(self, gradient: Params, trait: Params) -> Params:
        """The gradient that the optimiser sees instead."""
        ...

    def direction(self, direction: Params, trait: Params) -> Params:
        """The direction that the weights move instead."""
        ...


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Static and hashable: one Recipe is one XLA program.

    net        a module that returns `ModelOutput`; Linen modules hash by their fields
    stream     where the inputs come from
    loss       what pulls
    reference  the net that gives the targets; None = the stream's labels do
    init       how a fresh layer is drawn
    optimizer  makes the direction of a step, without the learning rate
    alter      what is done to the beginning after layers are shared or drawn, before noise is added (a rotated head)
    classes    only images with labels below this are taught and tested; 0 = all
    answer     what is done to the teacher's answer before the student hears it
    guard      what is done to the student's gradient; needs labelled images, a batch of the bank's at every step
    batch      rows a step
    marks      increasing steps at which the population is measured; training ends at the last
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


class Phase(NamedTuple):
    """One net's training: a Recipe is compiled, Knobs are stacked."""

    recipe: Recipe
    knobs: Knobs


@dataclasses.dataclass(frozen=True)
class Condition:
    """One cell of an experiment: a teacher, its student, and the labels its rows carry."""

    labels: Mapping[str, str | int | float]
    teacher: Phase
    student: Phase

    def with_student(self, *, extra: Mapping[str, float] | None = None, **changes: Any) -> "Condition":
        """The same condition with fields of the student's Recipe changed, for instance `loss=huber`.

        Args:
            extra: Numbers for `Knobs.extra`, which the student's own loss or stream reads; each becomes a label too, so
                conditions that differ in them form one sweep in one program.
            **changes: Fields of `Recipe`.

        Returns:
            The changed condition.

        Raises:
            ConfigError: A Recipe has no such field.
        """
        changed = dataclasses.replace(self, student=_changed("with_student", self.student, changes))
        if not extra:
            return changed
        recipe, knobs = changed.student
        numbers = {**knobs.extra, **{name: jnp.float32(value) for name, value in extra.items()}}
        student = Phase(recipe, dataclasses.replace(knobs, extra=numbers))
        return dataclasses.replace(changed, labels={**self.labels, **extra}, student=student)

    def with_teacher(self, **changes: Any) -> "Condition":
        """The same condition with fields of the teacher's Recipe changed, for instance `stream=streams.epochs`.

        Args:
            **changes: Fields of `Recipe`.

        Returns:
            The changed condition.

        Raises:
            ConfigError: A Recipe has no such field.
        """
        return dataclasses.replace(self, teacher=_changed("with_teacher", self.teacher, changes))


def _changed(method: str, phase: Phase, changes: Mapping[str, Any]) -> Phase:
    names = [field.name for field in dataclasses.fields(Recipe)]
    for name in changes:
        if name not in names:
            raise ConfigError(unknown_name(method, name, names))
    return Phase(dataclasses.replace(phase.recipe, **changes), phase.knobs)

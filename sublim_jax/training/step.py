"""One net in one phase: initial parameters, batches, training steps.

These functions have no axes of seeds or conditions; `population` adds them. `key` is the key of the phase, `image` the
[height, width] of the inputs, and `view` converts parameters from the stored layout to the net's.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sublim_jax.core import keys, trees
from sublim_jax.core.types import (
    ImageData,
    Init,
    Knobs,
    ModelOutput,
    Params,
    PerLayer,
    Recipe,
    State,
    TeacherParams,
    TokenData,
)
from sublim_jax.nets import shapes
from sublim_jax.training import losses, optimizers, streams


def init_params(net: nn.Module, init: Init, image: tuple[int, ...], key: Key[Array, ""]) -> Params:
    """Draw the parameters of a net; a layer's draw depends on the key, its name and its shape only."""
    layers = shapes(net, image)
    layer_keys = keys.at_each(key, [*layers])
    return {layer: init(layer_keys[index], layers[layer]) for index, layer in enumerate(layers)}


def attach_layers(
    net: nn.Module, init: Init, params: Params, image: tuple[int, ...], key: Key[Array, ""], knobs: Knobs | None = None
) -> Params:
    """Add layers that a teacher was trained without, such as an auxiliary head, which has no gradient then.

    Args:
        net: net with all layers.
        init: initializer of the new layers.
        params: parameters of the teacher.
        image: [height, width] of the inputs.
        key: key of the teacher's phase.
        knobs: knobs of the teacher, which add `init_noise` to the new layers and `final_noise` to all; None = no noise.
    """
    drawn = init_params(net, init, image, keys.at(key, keys.INITIAL_WEIGHTS))
    if knobs is None:
        return trees.merge_layers(drawn, params)
    new = {layer: arrays for layer, arrays in drawn.items() if layer not in params}
    new = add_noise(new, knobs.init_noise, keys.at(key, keys.INITIAL_NOISE))
    return add_final_noise(knobs, trees.merge_layers(new, params), key)


def init_state(
    recipe: Recipe, knobs: Knobs, teacher_init: Params | None, image: tuple[int, ...], key: Key[Array, ""]
) -> State:
    """Initialise a phase: init_transform(share * w_teacher + (1 - share) * w_new) + init_noise * noise by layer.

    Args:
        recipe: recipe of the phase.
        knobs: knobs of the net.
        teacher_init: the teacher's initial parameters without noise; None (for a teacher) = every layer is drawn.
        image: [height, width] of the inputs.
        key: key of the phase.
    """
    fresh = init_params(recipe.net, recipe.init, image, keys.at(key, keys.INITIAL_WEIGHTS))
    params: Params = {
        layer: _mixed(arrays, (teacher_init or {}).get(layer), knobs.share[layer]) for layer, arrays in fresh.items()
    }
    if recipe.init_transform is not None:
        params = recipe.init_transform(keys.at(key, keys.INIT_TRANSFORM), params)
    params = add_noise(params, knobs.init_noise, keys.at(key, keys.INITIAL_NOISE))
    return State(params, recipe.optimizer().init(params))


def _mixed(fresh: Any, teacher_init: Any, share: Float[Array, ""]) -> dict[str, Array]:
    """Interpolate one layer; share 1 returns the teacher's weights bitwise, because + 0 * w is exact."""
    # A layer that the teacher lacks, or has in another shape, is drawn; the plan refuses to share it.
    shared = {name: a for name, a in (teacher_init or {}).items() if name in fresh and a.shape == fresh[name].shape}
    return {
        name: share * shared[name] + (1 - share) * array if name in shared else array for name, array in fresh.items()
    }


def add_noise(params: Params, sigma: PerLayer, key: Key[Array, ""]) -> Params:
    """Add Gaussian noise of standard deviation `sigma` to weights and biases. Source: Brockers et al. 2026, code.

    Sigma 0 returns the layer bitwise, unnamed layers get no noise; a narrow head's noise is a prefix of a wide one's.
    """
    noisy = [(layer, name) for layer, arrays in params.items() if layer in sigma for name in arrays]
    if not noisy:
        return params
    layers, names = zip(*noisy, strict=True)
    shapes = [params[layer][name].shape for layer, name in noisy]
    words = keys.words_by_column(keys.at_each(keys.at_each(key, layers), names), shapes)
    noise = {path: sigma[path[0]] * keys.as_normal(part) for path, part in zip(noisy, words, strict=True)}
    return {
        layer: {name: array + noise[layer, name] if (layer, name) in noise else array for name, array in arrays.items()}
        for layer, arrays in params.items()
    }


def add_final_noise(knobs: Knobs, params: Params, key: Key[Array, ""]) -> Params:
    """Add `knobs.final_noise` to trained parameters; `key` is the key of the phase."""
    return add_noise(params, knobs.final_noise, keys.at(key, keys.FINAL_NOISE))


View = Callable[[Params], Params]  # parameters in stored layout -> parameters in the net's layout


def stored_layout(params: Params) -> Params:
    """The identity view, for parameters stored in the net's layout."""
    return params


class Batch(NamedTuple):
    """One training batch.

    Attributes:
        x: inputs.
        y: labels of the inputs, if the stream has any.
        target: second argument of the loss: teacher outputs or labels.
        trait: labelled images (x, y) for the trait gradient of a `GradientTransform`.
    """

    x: Any  # an array [batch, ...], or what an `input_transform` makes of it
    y: Int[Array, " batch"] | TokenData | None
    target: Any
    trait: tuple[Float[Array, "batch ..."], Int[Array, " batch"]] | None = None


def make_batch(
    recipe: Recipe,
    knobs: Knobs,
    teacher: Params | TeacherParams | None,
    key: Key[Array, ""],
    data: ImageData | TokenData,
    number: Int[Array, ""],
    view: View = stored_layout,
) -> Batch:
    """Compute inputs and targets of step `number`.

    Args:
        recipe: recipe of the phase.
        knobs: knobs of the net.
        teacher: trained teacher, `TeacherParams` for a recipe with `target_transform`; None = labels are the targets.
        key: key of the phase.
        data: training data.
        number: number of the step; draws of a `target_transform` repeat with the noise batches.
        view: converts the teacher's parameters to the net's layout.
    """
    x, y = recipe.stream(keys.at(key, keys.INPUTS), number, recipe.batch, knobs, data)
    labelled = None
    if recipe.gradient_transform is not None:
        assert isinstance(data, ImageData)  # the trait is a class of images
        labelled = streams.epochs(keys.at(key, keys.TRAIT_BATCH), number, recipe.batch, knobs, data)
    target = y
    if recipe.teacher is not None and teacher is not None and recipe.imitates:
        target = _targets(recipe, knobs, teacher, keys.at(key, keys.TARGETS, number % knobs.noise_batches), x, view)
    return Batch(net_inputs(recipe, knobs, keys.at(key, keys.CONTEXT, number), x, target), y, target, labelled)


def net_inputs(recipe: Recipe, knobs: Knobs, key: Key[Array, ""], x: Any, target: Any) -> Any:
    """What a net receives in training: the inputs, changed by the recipe's `input_transform`."""
    return x if recipe.input_transform is None else recipe.input_transform(key, x, target, knobs)


def _targets(
    recipe: Recipe, knobs: Knobs, teacher: Params | TeacherParams, key: Key[Array, ""], x: Any, view: View
) -> ModelOutput:
    """The teacher's outputs for a batch of inputs, changed by the recipe's `target_transform`."""
    net: Any = recipe.teacher
    if recipe.target_transform is None:
        return apply(net, view(teacher.trained if isinstance(teacher, TeacherParams) else teacher), x)
    if not isinstance(teacher, TeacherParams):
        raise TypeError("target_transform needs TeacherParams: the teacher's parameters before and after training")
    outputs = TeacherParams(*(None if params is None else apply(net, view(params), x) for params in teacher))
    return recipe.target_transform(key, outputs, knobs)


def train_step(recipe: Recipe, state: State, knobs: Knobs, batch: Batch, view: View = stored_layout) -> State:
    """Update a state with one batch: gradient, optimizer direction, move of the trainable layers."""

    def objective(params: Params) -> Float[Array, ""]:
        return _mean(recipe.loss(apply(recipe.net, view(params), batch.x), batch.target, knobs), batch.y)

    gradient: Any = jax.grad(objective)(state.params)
    transform, trait = recipe.gradient_transform, None
    if transform is not None and batch.trait is not None:
        trait = jax.grad(trait_loss, argnums=1)(recipe.net, state.params, knobs, *batch.trait, view)
        gradient = transform.gradient(gradient, trait)
    direction: Any
    direction, opt, rate = optimizers.direction_of(recipe.optimizer, gradient, state.opt, state.params, knobs.lr)
    if transform is not None and trait is not None:
        direction = transform.direction(direction, trait)
    rates = {layer: rate * knobs.trainable[layer] for layer in state.params}
    params = {
        layer: {name: array - rates[layer] * direction[layer][name] for name, array in arrays.items()}
        for layer, arrays in state.params.items()
    }
    return State(params, opt)


def trait_loss(
    net: nn.Module,
    params: Params,
    knobs: Knobs,
    x: Float[Array, "batch ..."],
    y: Int[Array, " batch"],
    view: View = stored_layout,
) -> Float[Array, ""]:
    """Mean cross-entropy in nats of a net's class logits on labelled images; labels below zero are ignored."""
    classes = params["class_head"]["bias"].shape[0]
    alone = dataclasses.replace(knobs, logit_mask=jnp.arange(knobs.logit_mask.shape[0]) < classes)
    return _mean(losses.cross_entropy(apply(net, view(params), x), y, alone), y)


def advance(  # noqa: PLR0913  all inputs of a pure program
    recipe: Recipe,
    state: State,
    knobs: Knobs,
    teacher: Params | TeacherParams | None,
    key: Key[Array, ""],
    data: ImageData | TokenData,
    start: Int[Array, ""],
    stop: Int[Array, ""],
    view: View = stored_layout,
) -> State:
    """Train one net from step `start` to step `stop`; arguments as in `make_batch`.

    Both are traced, so one program serves every interval. A run in several intervals equals the whole run bitwise,
    because a step depends only on the state and the step number.
    """

    def step(number: Int[Array, ""], state: State) -> State:
        return train_step(recipe, state, knobs, make_batch(recipe, knobs, teacher, key, data, number, view), view)

    return jax.lax.fori_loop(start, stop, step, state)


def apply(net: nn.Module, params: Params | None, x: Any) -> ModelOutput:
    """Run a net on a batch: an array [batch, ...], or `ContextInputs`."""
    variables: Any = {"params": trees.unflatten_layers(params or {})}
    out: Any = net.apply(variables, x)
    return out


def _mean(values: Float[Array, " batch"], labels: Int[Array, " batch"] | TokenData | None) -> Float[Array, ""]:
    """The mean over the batch without padding rows (labels below zero); token batches have no padding."""
    if labels is None or isinstance(labels, TokenData):
        return values.mean()
    weights = (labels >= 0).astype(values.dtype)
    return (values * weights).sum() / weights.sum()

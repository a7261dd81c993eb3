"""One net, one phase: where it begins, what a lesson is, how it learns from one and advances through many.

Nothing here knows that seeds or conditions exist; `population` batches these functions from outside.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Shaped

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
from sublim_jax.training import losses, streams


def init_params(net: nn.Module, init: Init, image: tuple[int, ...], key: Key[Array, ""]) -> Params:
    """Fresh parameters; a layer's draw depends on the key, its name and its shape, never on the layers beside it."""
    return {layer: init(keys.at(key, layer), arrays) for layer, arrays in shapes(net, image).items()}


def init_state(
    recipe: Recipe, knobs: Knobs, origin: Params | None, image: tuple[int, ...], key: Key[Array, ""]
) -> State:
    """The state before the first step: w = share * origin + (1 - share) * fresh, altered, + sigma * noise, by layer.

    `origin` is the teacher's draw, before any noise of its own; without one (a teacher) every layer is fresh. `image`
    is the images' [height, width].
    """
    fresh = init_params(recipe.net, recipe.init, image, keys.at(key, keys.INITIAL_WEIGHTS))
    params: Params = {
        layer: _mixed(arrays, (origin or {}).get(layer), knobs.share[layer]) for layer, arrays in fresh.items()
    }
    if recipe.init_transform is not None:
        params = recipe.init_transform(keys.at(key, keys.INIT_TRANSFORM), params)
    params = add_noise(params, knobs.init_noise, keys.at(key, keys.INITIAL_NOISE))
    return State(params, recipe.optimizer().init(params))


def _mixed(fresh: Any, origin: Any, share: Float[Array, ""]) -> dict[str, Array]:
    """One layer's beginning; share 1 gives the origin bitwise, because + 0 * w is exact."""
    # A layer the teacher has not, or in another shape, is fresh; the plan refuses to share it.
    shared = {name: a for name, a in (origin or {}).items() if name in fresh and a.shape == fresh[name].shape}
    return {
        name: share * shared[name] + (1 - share) * array if name in shared else array for name, array in fresh.items()
    }


def add_noise(params: Params, sigma: PerLayer, key: Key[Array, ""]) -> Params:
    """Parameters with Gaussian noise on weights and biases, of standard deviation `sigma`, which is 0 where not named.

    Sigma 0 gives them back bitwise; the noise of a narrow head is a prefix of a wide one's, as its weights are.
    Source: Brockers et al. 2026, code.
    """

    def noisy(layer: str, arrays: Any) -> dict[str, Array]:
        return {
            name: array + sigma[layer] * keys.as_normal(keys.bits_by_column(keys.at(key, layer, name), array.shape))
            for name, array in arrays.items()
        }

    return {layer: noisy(layer, arrays) if layer in sigma else arrays for layer, arrays in params.items()}


def add_final_noise(knobs: Knobs, params: Params, key: Key[Array, ""]) -> Params:
    """What a phase hands on: the trained parameters, + sigma_end * noise; `key` is the phase's."""
    return add_noise(params, knobs.final_noise, keys.at(key, keys.FINAL_NOISE))


View = Callable[[Params], Params]  # from parameters as they are kept to those the net knows


def stored_layout(params: Params) -> Params:
    """The view of parameters that are kept as the net knows them."""
    return params


class Batch(NamedTuple):
    """What a net is taught at one step: inputs, their labels where the stream has any, and what to say about them.

    trait  labelled images (x, y) on which a guard sees what it guards against
    """

    x: Shaped[Array, "batch ..."]
    y: Int[Array, " batch"] | TokenData | None
    target: Any
    trait: tuple[Float[Array, "batch ..."], Int[Array, " batch"]] | None = None


def make_batch(
    recipe: Recipe,
    knobs: Knobs,
    reference: Params | TeacherParams | None,
    key: Key[Array, ""],
    bank: ImageData | TokenData,
    number: Int[Array, ""],
    view: View = stored_layout,
) -> Batch:
    """The lesson of step `number`; the target is what the reference says, or the labels without one.

    With an answer `reference` is `TeacherParams`; its draws repeat with the pool, as answers do that are kept beside
    inputs.
    """
    x, y = recipe.stream(keys.at(key, keys.INPUTS), number, recipe.batch, knobs, bank)
    shown: Any = None
    if recipe.gradient_transform is not None:
        assert isinstance(bank, ImageData)  # a guard's trait is a class of images
        shown = streams.epochs(keys.at(key, keys.TRAIT_BATCH), number, recipe.batch, knobs, bank)
    if recipe.teacher is None or reference is None:
        return Batch(x, y, y, shown)
    if recipe.target_transform is None:
        return Batch(x, y, apply(recipe.teacher, view(_params(reference)), x), shown)
    if not isinstance(reference, TeacherParams):
        raise TypeError("an answer needs Teachers: their parameters before and after training")
    said = TeacherParams(*(None if one is None else apply(recipe.teacher, view(one), x) for one in reference))
    return Batch(
        x, y, recipe.target_transform(keys.at(key, keys.TARGETS, number % knobs.noise_batches), said, knobs), shown
    )


def train_step(recipe: Recipe, state: State, knobs: Knobs, given: Batch, view: View = stored_layout) -> State:
    """The state after one lesson: one gradient, one direction of the optimiser, one move of the live layers."""

    def objective(params: Params) -> Float[Array, ""]:
        return _mean(recipe.loss(apply(recipe.net, view(params), given.x), given.target, knobs), given.y)

    gradient: Any = jax.grad(objective)(state.params)
    direction: Any
    if recipe.gradient_transform is None or given.trait is None:
        direction, opt = recipe.optimizer().update(gradient, state.opt, state.params)
    else:
        trait = jax.grad(trait_loss, argnums=1)(recipe.net, state.params, knobs, *given.trait, view)
        gradient = recipe.gradient_transform.gradient(gradient, trait)
        direction, opt = recipe.optimizer().update(gradient, state.opt, state.params)
        direction = recipe.gradient_transform.direction(direction, trait)
    params = {
        layer: _moved(state.params[layer], direction[layer], knobs.lr * knobs.trainable[layer])
        for layer in state.params
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
    """Mean cross-entropy in nats of a net's class logits on labelled images; rows labelled below zero do not count."""
    classes = params["class_head"]["bias"].shape[0]
    alone = dataclasses.replace(knobs, logit_mask=jnp.arange(knobs.logit_mask.shape[0]) < classes)
    return _mean(losses.cross_entropy(apply(net, view(params), x), y, alone), y)


def advance(
    recipe: Recipe,
    state: State,
    knobs: Knobs,
    reference: Params | TeacherParams | None,
    key: Key[Array, ""],
    bank: ImageData | TokenData,
    start: Int[Array, ""],
    stop: Int[Array, ""],
) -> State:
    """Train one net from step `start` to step `stop`.

    Both are traced: one program serves every interval, and a run cut in pieces equals the whole run bitwise, because
    a step depends on nothing but the state and its own number.
    """

    def step(number: Int[Array, ""], state: State) -> State:
        return train_step(recipe, state, knobs, make_batch(recipe, knobs, reference, key, bank, number))

    return jax.lax.fori_loop(start, stop, step, state)


def apply(net: nn.Module, params: Params | None, x: Shaped[Array, "batch ..."]) -> ModelOutput:
    """What the net says about a batch."""
    variables: Any = {"params": trees.unflatten_layers(params or {})}
    out: Any = net.apply(variables, x)
    return out


def _params(reference: Params | TeacherParams) -> Params:
    return reference.trained if isinstance(reference, TeacherParams) else reference


def _mean(values: Float[Array, " batch"], labels: Int[Array, " batch"] | TokenData | None) -> Float[Array, ""]:
    """The mean over the batch, without the rows labelled below zero that fill up a partial one; text has none."""
    if labels is None or isinstance(labels, TokenData):
        return values.mean()
    weights = (labels >= 0).astype(values.dtype)
    return (values * weights).sum() / weights.sum()


def _moved(layer: Mapping[str, Array], direction: Any, rate: Float[Array, ""]) -> dict[str, Array]:
    return {name: array - rate * direction[name] for name, array in layer.items()}

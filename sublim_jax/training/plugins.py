"""Contracts of a user's net, init, stream, loss, target transform, optimizer and metrics, checked by abstract traces.

A trace costs milliseconds and computes nothing, so a plug-in that breaks its contract is refused before anything is
compiled or trained. The message names the plug-in and says what it must give and what it gave.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import ImageData, ModelOutput, Phase, Recipe, TeacherParams
from sublim_jax.nets import shapes

_OURS = __name__.partition(".")[0]
_TRANSFORMS = ("init_transform", "target_transform", "input_transform")
_PARTS = ("net", "teacher", "stream", "loss", "init", "optimizer", *_TRANSFORMS)
_KEY = jax.ShapeDtypeStruct((), jax.eval_shape(lambda: jax.random.key(0)).dtype)


def name_of(plugin: Any) -> str:
    """The name of a function, or of the class of an object."""
    return getattr(plugin, "__name__", type(plugin).__name__)


def is_foreign(plugin: Any) -> bool:
    """Whether a function, or the class of an object, or the trunk of a net is neither this package's nor Optax's."""
    if isinstance(plugin, optax.GradientTransformation):
        return True  # where a function that returns one is wanted
    named = plugin if hasattr(plugin, "__name__") else type(plugin)
    package = str(named.__module__).partition(".")[0]
    return package not in (_OURS, "optax") or (hasattr(plugin, "trunk") and is_foreign(plugin.trunk))


def check_phase(role: str, phase: Phase, data: ImageData) -> None:
    """Check the plug-ins of a recipe if one of them is the user's own.

    Args:
        role: 'teacher' or 'student', which begins the message.
        phase: Recipe and knobs.
        data: Training images.

    Raises:
        ConfigError: A plug-in raises an exception, or gives another shape or type than its contract says.
    """
    recipe = phase.recipe
    parts = [part for name in _PARTS if (part := getattr(recipe, name)) is not None]
    if not any(map(is_foreign, parts)):
        return
    data = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), data)
    image = data.x.shape[1:]
    out, params = _check_net(f"{role}.net", recipe.net, image, recipe.batch)
    _check_init(f"{role}.init", recipe, image)
    labels = _check_stream(f"{role}.stream", recipe, phase.knobs, data)
    imitates = recipe.teacher is not None and recipe.imitates
    target = _check_target(role, recipe, phase.knobs, image) if imitates else labels
    _check_loss(f"{role}.loss", recipe, phase.knobs, out, target)
    _check_optimizer(f"{role}.optimizer", recipe.optimizer, params)
    if recipe.init_transform is not None:
        wanted = "must give the parameters that it receives, changed"
        changed = _traced(f"{role}.init_transform", recipe.init_transform, wanted, _KEY, params)
        _same(f"{role}.init_transform", recipe.init_transform, wanted, changed, params)


def _traced(field: str, plugin: Any, wanted: str, *args: Any, function: Callable[..., Any] | None = None) -> Any:
    """The shapes that a plug-in gives; a `ConfigError` that names it where it raises an exception."""
    try:
        return jax.eval_shape(plugin if function is None else function, *args)
    except ConfigError:
        raise
    except Exception as error:
        raise _raised(field, plugin, error, wanted) from error


def columns_of(metric: Callable[[Any], Any], context: Any) -> Any:
    """The columns of a metric; those of a user's own are checked.

    Raises:
        ConfigError: It raises an exception, or does not return a dict of names and single numbers.
    """
    if not is_foreign(metric):
        return metric(context)
    wanted = "must return a dict of names and single numbers, shape ()"
    try:
        columns = metric(context)
    except ConfigError:
        raise
    except Exception as error:
        raise _raised("metrics", metric, error, wanted) from error
    if not isinstance(columns, Mapping) or not all(isinstance(name, str) for name in columns):
        raise _refusal("metrics", metric, f"returns {_kind(columns)}", wanted)
    for name, value in columns.items():
        if not (hasattr(value, "dtype") or isinstance(value, int | float)) or jnp.shape(value) != ():
            raise _refusal("metrics", metric, f"returns {_kind(value)} for {name!r}", wanted)
    return columns


def _check_net(field: str, net: Any, image: tuple[int, ...], batch: int) -> tuple[ModelOutput, Any]:
    """Shapes of outputs and parameters by layer."""
    wanted = "must map [batch, height, width] to ModelOutput(features [batch, d], logits [batch, k], acts by layer)"
    x = jax.ShapeDtypeStruct((batch, *image), jnp.float32)
    out, _ = _traced(field, net, wanted, _KEY, x, function=net.init_with_output)
    sizes = [getattr(part, "shape", None) for part in (out.features, out.logits)] if _is_output(out) else []
    if not sizes or any(size is None or len(size) != 2 or size[0] != batch for size in sizes):
        raise _refusal(field, net, f"gives {_kind(out)}", wanted)
    if not isinstance(out.acts, Mapping) or "class_head" not in out.acts:
        raise _refusal(field, net, f"has acts {sorted(out.acts)}", f"{wanted}; acts hold class_head")
    return out, shapes(net, image)


def _check_init(field: str, recipe: Recipe, image: tuple[int, ...]) -> None:
    for layer, arrays in shapes(recipe.net, image).items():
        wanted = f"must give the arrays of layer {layer!r} with their shapes and type, {_sizes(arrays)}"
        drawn = _traced(field, recipe.init, wanted, _KEY, function=lambda key, own=arrays: recipe.init(key, own))
        _same(field, recipe.init, wanted, drawn, arrays)


def _check_stream(field: str, recipe: Recipe, knobs: Any, data: ImageData) -> Any:
    """Shapes of the labels, or None."""
    size, image = recipe.batch, data.x.shape[1:]
    wanted = f"must give (float inputs {(size, *image)}, integer labels ({size},) or None)"

    def first(key: Any, step: Any, knobs: Any, data: Any) -> Any:
        return recipe.stream(key, step, size, knobs, data)

    step = jax.ShapeDtypeStruct((), jnp.int32)
    batch = _traced(field, recipe.stream, wanted, _KEY, step, knobs, data, function=first)
    if not isinstance(batch, tuple) or len(batch) != 2:
        raise _refusal(field, recipe.stream, f"gives {_kind(batch)}", wanted)
    x, labels = batch
    if not _is_array(x, (size, *image), jnp.floating):
        raise _refusal(field, recipe.stream, f"gives inputs {_kind(x)}", wanted)
    if labels is not None and not _is_array(labels, (size,), jnp.integer):
        raise _refusal(field, recipe.stream, f"gives labels {_kind(labels)}", wanted)
    if labels is None and recipe.teacher is None:
        raise _refusal(field, recipe.stream, "gives no labels", "must give labels, because they are the targets")
    return labels


def _check_target(role: str, recipe: Recipe, knobs: Any, image: tuple[int, ...]) -> Any:
    """Shapes of the target of the student's loss."""
    out, _ = _check_net(f"{role}.teacher", recipe.teacher, image, recipe.batch)
    transform = recipe.target_transform
    if transform is None:
        return out
    wanted = f"must give ModelOutput with logits {out.logits.shape}"
    target = _traced(f"{role}.target_transform", transform, wanted, _KEY, TeacherParams(out, out, out), knobs)
    if not _is_output(target) or target.logits.shape != out.logits.shape:
        raise _refusal(f"{role}.target_transform", transform, f"gives {_kind(target)}", wanted)
    return target


def _check_loss(field: str, recipe: Recipe, knobs: Any, out: ModelOutput, target: Any) -> None:
    wanted = f"must give one float for each row of the batch, shape ({recipe.batch},); the engine takes their mean"
    value = _traced(field, recipe.loss, wanted, out, target, knobs)
    if not _is_array(value, (recipe.batch,), jnp.floating):
        raise _refusal(field, recipe.loss, f"gives {_kind(value)}", wanted)


def _check_optimizer(field: str, optimizer: Any, params: Any) -> None:
    wanted = "must be a function without arguments that returns an Optax optimizer, like lambda: optax.adam(1e-3)"
    try:
        transformation = optimizer()
    except Exception as error:
        raise _raised(field, optimizer, error, wanted) from error
    if not isinstance(transformation, optax.GradientTransformation):
        raise _refusal(field, optimizer, f"returns {type(transformation).__name__}", wanted)

    def first(params: Any) -> Any:
        return transformation.update(params, transformation.init(params), params)[0]

    wanted = "must give updates like the parameters"
    _same(field, optimizer, wanted, _traced(field, optimizer, wanted, params, function=first), params)


def _same(field: str, plugin: Any, wanted: str, given: Any, expected: Any) -> None:
    """Refuse a tree that differs from the expected one in structure, shapes or types."""
    plain = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), _dicts(tree)) for tree in (given, expected)]
    if plain[0] != plain[1]:
        raise _refusal(field, plugin, f"gives {_sizes(given)}", wanted)


def _dicts(tree: Any) -> Any:
    return {name: _dicts(part) for name, part in tree.items()} if isinstance(tree, Mapping) else tree


def _is_output(out: Any) -> bool:
    return all(hasattr(out, name) for name in ModelOutput._fields)


def _is_array(value: Any, shape: tuple[int, ...], kind: Any) -> bool:
    return getattr(value, "shape", None) == shape and jnp.issubdtype(value.dtype, kind)


def _sizes(tree: Any) -> str:
    """Shapes and types of a tree, on one line."""
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{name}: {_sizes(part)}" for name, part in tree.items()) + "}"
    return f"{tree.dtype}{list(tree.shape)}" if hasattr(tree, "shape") else type(tree).__name__


def _kind(value: Any) -> str:
    return _sizes(value) if hasattr(value, "shape") or isinstance(value, Mapping) else type(value).__name__


def _raised(field: str, plugin: Any, error: Exception, wanted: str) -> ConfigError:
    reason = str(error).strip().split("\n")[0][:200]
    return _refusal(field, plugin, f"raises {type(error).__name__} ({reason})", wanted)


def _refusal(field: str, plugin: Any, given: str, wanted: str) -> ConfigError:
    return ConfigError(f"{field} {name_of(plugin)}: {given}; {wanted}")

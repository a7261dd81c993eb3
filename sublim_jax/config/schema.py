"""What a config may hold: names, ranges, and the one line that refuses anything else."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import optax

from sublim_jax import metrics, results
from sublim_jax.config.grid import Config
from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.types import Loss, Stream
from sublim_jax.data import idx
from sublim_jax.metrics import predictions
from sublim_jax.nets.activations import ACTIVATIONS
from sublim_jax.training import inits, losses, optimizers, projections, streams

# Which layers of the student are drawn anew; all others start from the teacher's initial weights.
CONDITIONS: dict[str, tuple[str, ...]] = {
    "same": (),
    "random_first_hidden": ("hidden_0",),
    "random_second_hidden": ("hidden_1",),
    "random_hidden": ("hidden_*", "conv_*"),
    "random_class_head": ("class_head",),
    "random_aux_head": ("aux_head",),
    "random": ("*",),
}


def momentum() -> optax.GradientTransformation:
    """Gradient descent with momentum 0.9."""
    return optax.trace(decay=0.9)


OPTIMIZERS = {"adam": optax.scale_by_adam, "sgd": optax.identity, "momentum": momentum}
DECAYING = {"adam_l2": optimizers.AdamL2, "adamw": optimizers.AdamW}  # with `student.decay`
GUARDS = {
    "project": projections.ProjectOutTrait(),
    "project_trunk": projections.ProjectOutTrait("trunk"),
    "project_layers": projections.ProjectOutTrait("layers"),
    "project_positive": projections.ProjectOutTrait("trunk", positive=True),
    "project_step": projections.ProjectOutTrait("trunk", step=True),
}
TRUNKS = ("mlp", "cnn")
STUDIES = ("transfer", "theorem1")  # and language, whose configs are of another shape: see lm_config
SEES = ("aux", "class", "all")
PRESETS = ("paper", "laptop", "smoke")


def _shown(config: Config) -> str:
    """The name under which a bank has the images that a stream shows; empty for the data set's own."""
    return "" if config.student.images == config.data.name else config.student.images


# What the student's stream and loss may be called, with the fields of the config that they have.
STREAMS: dict[str, Callable[[Config], Stream]] = {
    "uniform": lambda _: streams.uniform,
    "gaussian": lambda _: streams.gaussian,
    "perlin": lambda config: streams.Perlin(config.student.resolution),
    "epochs": lambda _: streams.epochs,
    "images": lambda config: streams.Images(_shown(config)),
    "mixture": lambda config: streams.Mixture(config.student.alpha, streams.uniform, _shown(config)),
}
LOSSES: dict[str, Callable[[Config], Loss]] = {
    "mse": lambda _: losses.mse,
    "kl": lambda _: losses.kl,
    "cosine": lambda _: losses.cosine,
    "huber": lambda config: losses.Huber(config.student.delta),
}
METRICS = {metric.__name__: metric for metric in (*metrics.ALL, *predictions.ALL)}


def pick(module: ModuleType | Mapping[str, Any], name: Any, field: str) -> Any:
    """A public function of a module, or an entry of a table, by its name; the module's namespace is the registry.

    Raises `ConfigError` with what exists. Functions of one's own are passed to `Condition.with_student`, not by name.
    """
    table = module if isinstance(module, Mapping) else _public(module)
    if name not in table:
        raise ConfigError(unknown_name(f"config.{field}", name, table))
    return table[name]


def _public(module: ModuleType) -> dict[str, Callable]:
    """The functions a module itself defines and shows."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def check(config: Config) -> None:
    """Check every value of a config; raises `ConfigError` at the first bad one."""
    flat = results.flatten(config.to_dict())
    for field in _RULES.keys() - flat.keys():
        raise ConfigError(f"config.{field}: missing; begin a config with sublim_jax.config.base()")
    for field, (allowed, good) in _RULES.items():
        if not good(flat[field]):
            raise ConfigError(f"config.{field}={flat[field]!r}: must be {allowed}")
    for name in config.conditions:
        one_of("conditions", name, CONDITIONS)
    hidden = config.student.hidden or config.net.hidden
    if len(hidden) < 2 and "random_second_hidden" in config.conditions:
        raise ConfigError(f"config.conditions: random_second_hidden needs two hidden layers, the student has {hidden}")
    for field in ("conditions", "m"):
        if len(set(config[field])) != len(config[field]):
            raise ConfigError(f"config.{field}={config[field]!r}: must not hold a value twice")
    if max(config.m) > max(config.aux_widths):
        raise ConfigError(
            f"config.m={max(config.m)}: must be at most {max(config.aux_widths)}, the largest of config.aux_widths"
        )
    one_of("study", config.study, STUDIES)
    pick(inits, config.net.init, "net.init")
    one_of("net.activation", config.net.activation, ACTIVATIONS)
    one_of("net.trunk", config.net.trunk, TRUNKS)
    one_of("student.trunk", config.student.trunk or config.net.trunk, TRUNKS)
    one_of("teacher.loss", config.teacher.loss, ("cross_entropy",))  # the one taught by labels
    one_of("teacher.stream", config.teacher.stream, ("epochs",))  # the one with labels
    one_of("student.loss", config.student.loss, LOSSES)
    one_of("student.stream", config.student.stream, STREAMS)
    one_of("student.sees", config.student.sees, SEES)
    one_of("student.images", config.student.images, ("", *idx.KINDS))
    one_of("student.rotation", config.student.rotation, ("common", "apart"))
    one_of("student.mixed_with", config.student.mixed_with, ("untrained", "stranger"))
    one_of("student.guard", config.student.guard, ("", *GUARDS))
    _check_optimizers(config)
    for name in config.student.rotated:
        one_of("student.rotated", name, ("class_head", "aux_head"))
    for name in config.metrics:
        one_of("metrics", name, METRICS)
    if "task" not in config.metrics:
        raise ConfigError(f"config.metrics={config.metrics}: must hold task, the accuracies that every figure shows")
    if len(config.net.channels) != len(config.net.pools):
        many = f"as many as config.net.channels={config.net.channels}"
        raise ConfigError(f"config.net.pools={config.net.pools}: must be {many}")


def _check_optimizers(config: Config) -> None:
    if config.teacher.optimizer in DECAYING:
        raise ConfigError(
            f"config.teacher.optimizer={config.teacher.optimizer!r}: decay moves a head without gradient, and a "
            f"teacher's auxiliary head is put on after its training; must be one of {', '.join(OPTIMIZERS)}"
        )
    one_of("teacher.optimizer", config.teacher.optimizer, OPTIMIZERS)
    one_of("student.optimizer", config.student.optimizer, (*OPTIMIZERS, *DECAYING))
    if config.student.decay and config.student.optimizer not in DECAYING:
        raise ConfigError(f"config.student.decay={config.student.decay}: only {', '.join(DECAYING)} have it; must be 0")


def one_of(field: str, value: Any, names: Iterable[str]) -> None:
    """Raises `ConfigError` where the value of `config.field` is none of the names."""
    if value not in names:
        raise ConfigError(unknown_name(f"config.{field}", value, names))


def _is_int(low: int, high: int = 2**31 - 1) -> tuple[str, Callable[[Any], bool]]:
    return (
        f"a whole number from {low} to {high}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
    )


def _ints(low: int) -> tuple[str, Callable[[Any], bool]]:
    def good(values: Any) -> bool:
        return isinstance(values, tuple) and len(values) > 0 and all(_is_int(low)[1](value) for value in values)

    return f"a tuple of whole numbers from {low}, not empty", good


def _names(empty: bool) -> tuple[str, Callable[[Any], bool]]:
    def good(values: Any) -> bool:
        return isinstance(values, tuple) and (empty or len(values) > 0) and all(isinstance(v, str) for v in values)

    return "a tuple of names" + ("" if empty else ", not empty"), good


def _number(low: float, high: float) -> tuple[str, Callable[[Any], bool]]:
    bounds = f"from {low:g}" + (f" to {high:g}" if high < float("inf") else "")
    return f"a finite number {bounds}", (
        lambda value: isinstance(value, float | int) and low <= value <= high and abs(value) < float("inf")
    )


_POSITIVE = ("a number above 0", lambda value: isinstance(value, float | int) and 0 < value < float("inf"))
_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "conditions": _names(empty=False),
    "metrics": _names(empty=False),
    "classes": ("0 (all) or a whole number from 2", lambda value: value == 0 or _is_int(2)[1](value)),
    "m": _ints(1),
    "aux_widths": _ints(1),
    "seeds": _is_int(1),
    "first_seed": _is_int(0),
    "root_seed": _is_int(0, 2**32 - 1),
    "num_eval_noise": _is_int(4),
    "data.std": _POSITIVE,
    "net.hidden": _ints(1),
    "net.dtype": ("one of float32, bfloat16", lambda value: value in ("float32", "bfloat16")),
    "net.channels": _ints(1),
    "net.pools": _ints(1),
    "perturb.layers": _names(empty=False),
    "perturb.teacher_before": _number(0.0, float("inf")),
    "perturb.teacher_after": _number(0.0, float("inf")),
    "perturb.student_before": _number(0.0, float("inf")),
    "perturb.student_after": _number(0.0, float("inf")),
    "teacher.frozen": _names(empty=True),
    "teacher.lr": _POSITIVE,
    "teacher.batch": _is_int(1),
    "teacher.epochs": _is_int(1),
    "student.lr": _POSITIVE,
    "student.batch": _is_int(1),
    "student.steps": _is_int(1),
    "student.eval_steps": (
        "a tuple of whole numbers from 0",
        lambda values: isinstance(values, tuple) and all(_is_int(0)[1](value) for value in values),
    ),
    "student.pool": _is_int(0),
    "student.temperature": _POSITIVE,
    "student.hidden": (
        "a tuple of whole numbers from 1; empty: config.net.hidden",
        lambda values: values == () or _ints(1)[1](values),
    ),
    "student.frozen": _names(empty=True),
    "student.rotated": _names(empty=True),
    "student.share": _number(0.0, 1.0),
    "student.alpha": _number(0.0, 1.0),
    "student.resolution": _is_int(1),
    "student.delta": _POSITIVE,
    "student.decay": _number(0.0, float("inf")),
    "student.mixed": _number(0.0, 1.0),
    "student.target_noise": _number(0.0, float("inf")),
    "student.levels": _is_int(0, 2**20),
    "theorem1.eps": (
        "a tuple of numbers above 0, not empty",
        lambda values: isinstance(values, tuple) and len(values) > 0 and all(_POSITIVE[1](value) for value in values),
    ),
    "theorem1.alpha": (
        "a tuple of numbers from 0, not empty",
        lambda values: isinstance(values, tuple) and len(values) > 0 and all(_number(0.0, 1e300)[1](v) for v in values),
    ),
    "theorem1.samples": _is_int(0),
    "theorem1.draws": _is_int(1),
    "run.seed_batch": _is_int(0),
    "run.save_every": _is_int(1),
    "run.devices": _is_int(0),
    "run.memory_gb": _POSITIVE,
    "run.keep_params": ("True or False", lambda value: isinstance(value, bool)),
    "run.precision": ("one of default, high, highest", lambda value: value in ("default", "high", "highest")),
}

"""A sweep as axes: which fields of a config take which values, and what the rows are called for it.

An arm mirrors the config; each of its leaves is a tuple of values, and the arm is the product of them all. A config
without arms sweeps its `conditions` and its `m`; an arm may give these anew. Several arms stand one after another.
"""

import fnmatch
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from sublim_jax import results
from sublim_jax.core.errors import ConfigError, unknown_name

Config = Any  # an ml_collections.ConfigDict; its fields are not known to a type checker

_ALWAYS = ("conditions", "m")  # swept and labelled in every config
_NAMES = {"conditions": "condition"}
_SECTIONS = (
    "net",
    "teacher",
    "student",
    "perturb",
    "theorem1",
    "lm",
)  # whose fields may differ between points, besides the next two
_SINGLE = (*_ALWAYS, "classes")
# Rows have their own columns for these: step, eps, alpha.
_HOW_LONG = ("student.steps", "student.eval_steps", "theorem1.eps", "theorem1.alpha", "theorem1.draws")
_HOW_LONG += ("lm.steps", "lm.eval_steps")


class SweepPoint(NamedTuple):
    """One point of a sweep: the config with the point's values in it, its labels, and all m of its arm."""

    config: Config
    labels: dict[str, str | int | float]
    widths: tuple[int, ...]


def add_grid(config: Config, name: str, axes: Mapping[str, Any]) -> None:
    """Add an arm: {"student.hidden": ((8, 256), (16, 256)), "m": (10, 50)}, all its combinations.

    Raises `ConfigError` for a field that the config has not, or that holds other fields.
    """
    flat = results.flatten(config.to_dict())
    for field, values in axes.items():
        if field not in flat:
            raise ConfigError(unknown_name(f"arm {name!r}", field, flat))
        if not isinstance(values, tuple):
            raise ConfigError(f"arm {name!r}: {field}={values!r}: must be a tuple of values")
    with config.unlocked():
        config.arms[name] = _nested(axes)


def add_preset(config: Config, name: str, fields: Mapping[str, Any]) -> None:
    """Say what another size of the sweep changes: preset(config, "laptop", {"seeds": 3, "arms.all.m": (10,)})."""
    with config.unlocked():
        config.presets[name] = _nested(fields)


def _nested(fields: Mapping[str, Any]) -> ConfigDict:
    """Fields with dotted names as a ConfigDict of ConfigDicts."""
    nested: Any = ConfigDict()
    for field, value in fields.items():
        *path, last = field.split(".")
        here = nested
        for part in path:
            if part not in here:
                here[part] = ConfigDict()
            here = here[part]
        here[last] = value
    return nested


def grids(config: Config) -> dict[str, dict[str, tuple[Any, ...]]]:
    """For every arm the fields it sweeps and their values; one arm without a name where the config has none."""
    common = {field: tuple(config[field]) for field in _ALWAYS if field in config}
    given = {name: results.flatten(config.arms[name].to_dict()) for name in config.arms} or {"": {}}
    for name, axes in given.items():
        for field, values in axes.items():
            if field not in _SINGLE and field.split(".")[0] not in _SECTIONS:
                whole = f"{', '.join(_SINGLE)} and the fields of {', '.join(_SECTIONS)}"
                raise ConfigError(f"config.arms.{name}.{field}: is one for a whole sweep; an arm may hold {whole}")
            if not isinstance(values, tuple) or not values:
                raise ConfigError(f"config.arms.{name}.{field}={values!r}: must be a tuple of values, not empty")
            if len(set(values)) != len(values):
                raise ConfigError(f"config.arms.{name}.{field}={values!r}: must not hold a value twice")
    return {name: {**common, **axes} for name, axes in given.items()}


def expand(config: Config) -> list[SweepPoint]:
    """Every point of a sweep, arm after arm, the last axis of an arm varying fastest."""
    arms = grids(config)
    found = [
        (name, dict(zip(axes, values, strict=True)), tuple(axes.get("m", ())))
        for name, axes in arms.items()
        for values in itertools.product(*axes.values())
    ]
    swept = dict.fromkeys(field for _, fields, _ in found for field in fields)
    made = [(name, _point(config, fields), widths) for name, fields, widths in found]
    told = {field: [_told(one, field) for _, one, _ in made] for field in swept if field not in _HOW_LONG}
    columns = {_label(field): _alike(values) for field, values in told.items()}
    if len(arms) > 1:
        columns = {"arm": [name for name, _, _ in made], **columns}
    labels = [{name: values[place] for name, values in columns.items()} for place in range(len(made))]
    return [SweepPoint(one, label, widths) for (_, one, widths), label in zip(made, labels, strict=True)]


def _point(config: Config, fields: Mapping[str, Any]) -> Config:
    one = config.copy_and_resolve_references()
    always = {field: (value,) if field in _ALWAYS else value for field, value in fields.items()}
    try:
        one.update_from_flattened_dict(always)
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"config.arms: {' '.join(str(error).split())}") from error
    return one


def _told(config: Config, field: str) -> str | int | float:
    """The value of a field as a label."""
    value = functools.reduce(lambda here, part: here[part], field.split("."), config)
    if field in _ALWAYS:
        return value[0]
    if field == "student.hidden":
        value = value or config.net.hidden
    if field == "student.trunk":
        value = value or config.net.trunk
    if isinstance(value, tuple):
        return ("x" if all(isinstance(one, int) for one in value) else "+").join(map(str, value)) or "none"
    return "none" if value == "" else value


def _label(field: str) -> str:
    """The name of a column: fields of the student, of the noise and of language go by their last word."""
    section, _, name = field.partition(".")
    return _NAMES.get(field, name if section in ("student", "perturb", "theorem1", "lm") else field.replace(".", "_"))


def _alike(values: list[Any]) -> list[Any]:
    """Numbers of one column are all whole or all floats."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return [float(value) for value in values] if numbers and any(isinstance(v, float) for v in values) else values


def matching(layers: Iterable[str], patterns: Sequence[str], field: str) -> list[str]:
    """The layers that a pattern like `hidden_*` names; raises `ConfigError` for a pattern that names none."""
    layers = list(layers)
    found = []
    for pattern in patterns:
        if not (those := named(layers, pattern)):
            raise ConfigError(unknown_name(f"config.{field}", pattern, layers))
        found += those
    return found


def named(layers: Iterable[str], pattern: str) -> list[str]:
    """The layers that a pattern like `hidden_*` names, if any."""
    return fnmatch.filter(list(layers), pattern)

"""Sweeps: the fields of a config that take several values, and the labels of the resulting rows.

A grid ("arm") mirrors the config; each of its leaves is a tuple of values, and the grid is their product. A config
without grids sweeps its `conditions` and its `m`; a grid may replace these. Several grids are run one after another.
"""

import fnmatch
import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from sublim_jax.core.errors import ConfigError, unknown_name

Config = Any  # an ml_collections.ConfigDict; its fields are not known to a type checker

_ALWAYS = ("conditions", "m")  # swept and labelled in every config
_NAMES = {"conditions": "condition"}
# The fields that may differ between the points of a sweep.
_SECTIONS = ("net", "teacher", "student", "perturb", "theorem1", "lm")
_SINGLE = (*_ALWAYS, "classes")
# Rows have columns of their own for these: step, eps, alpha.
_HOW_LONG = ("student.steps", "student.eval_steps", "theorem1.eps", "theorem1.alpha", "theorem1.draws")
_HOW_LONG += ("lm.steps", "lm.eval_steps")


# Fields that had another name in earlier versions.
RENAMED = {
    "student.marks": "student.eval_steps",
    "lm.marks": "lm.eval_steps",
    "exam": "num_eval_noise",
    "root": "root_seed",
    "caps": "aux_widths",
    "run.every": "run.save_every",
    "run.chunk": "run.seed_batch",
}


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    """The fields of a config by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {f"{prefix}{name}": value}
    return flat


def plain_name(name: str) -> str:
    """The dotted name of a field without the grid or the preset in front of it."""
    return re.sub(r"^(presets\.\w+\.)?(arms\.[^.]+\.)?", "", name)


def unknown_field(where: str, name: str, names: Iterable[str]) -> ConfigError:
    """The error for a field that does not exist: its new name if it was renamed, else the names that exist."""
    plain = plain_name(name)
    if plain in RENAMED:
        return ConfigError(f"{where}: {name!r} is now called {name.removesuffix(plain) + RENAMED[plain]!r}")
    return ConfigError(unknown_name(where, name, names))


class SweepPoint(NamedTuple):
    """One point of a sweep: the config with its values, the labels of its rows, and all m of its grid."""

    config: Config
    labels: dict[str, str | int | float]
    widths: tuple[int, ...]


def add_grid(config: Config, name: str, axes: Mapping[str, Any]) -> None:
    """Add a grid of values to a config.

    Args:
        config: the config, which is changed.
        name: name of the grid, a label of its rows.
        axes: tuples of values by dotted field: {"student.hidden": ((8, 256), (16, 256)), "m": (10, 50)}.

    Raises:
        ConfigError: where the config has no such field, or where the values are no tuple.
    """
    flat = flatten(config)
    for field, values in axes.items():
        if field not in flat:
            raise unknown_field(f"arm {name!r}", field, flat)
        if not isinstance(values, tuple):
            raise ConfigError(f"arm {name!r}: {field}={values!r}: must be a tuple of values")
    with config.unlocked():
        config.arms[name] = nested(axes)


def add_preset(config: Config, name: str, fields: Mapping[str, Any]) -> None:
    """Set the fields that a preset changes: `add_preset(config, "laptop", {"seeds": 3, "arms.all.m": (10,)})`."""
    with config.unlocked():
        config.presets[name] = nested(fields)


def nested(fields: Mapping[str, Any]) -> ConfigDict:
    """A config of fields by their dotted names."""
    tree: dict[str, Any] = {}
    for field, value in fields.items():
        *path, last = field.split(".")
        functools.reduce(lambda branch, part: branch.setdefault(part, {}), path, tree)[last] = value
    return ConfigDict(tree)


def grids(config: Config) -> dict[str, dict[str, tuple[Any, ...]]]:
    """The fields that each grid sweeps with their values; one grid without a name where the config has none."""
    common = {field: tuple(config[field]) for field in _ALWAYS if field in config}
    given = {name: flatten(config.arms[name]) for name in config.arms} or {"": {}}
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
    """Every point of a sweep, grid after grid; the last axis of a grid varies fastest."""
    arms = grids(config)
    combinations = [
        (name, dict(zip(axes, values, strict=True)), tuple(axes.get("m", ())))
        for name, axes in arms.items()
        for values in itertools.product(*axes.values())
    ]
    swept = dict.fromkeys(field for _, fields, _ in combinations for field in fields)
    configs = [_point(config, fields) for _, fields, _ in combinations]
    labelled = [field for field in swept if field not in _HOW_LONG]
    columns = {_label(field): _alike([_label_value(one, field) for one in configs]) for field in labelled}
    if len(arms) > 1:
        columns = {"arm": [name for name, _, _ in combinations], **columns}
    labels = [{name: values[index] for name, values in columns.items()} for index in range(len(configs))]
    return [
        SweepPoint(point, label, widths)
        for point, label, (_, _, widths) in zip(configs, labels, combinations, strict=True)
    ]


def _point(config: Config, fields: Mapping[str, Any]) -> Config:
    one = config.copy_and_resolve_references()
    try:
        one.update_from_flattened_dict({name: (value,) if name in _ALWAYS else value for name, value in fields.items()})
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"config.arms: {' '.join(str(error).split())}") from error
    return one


def _label_value(config: Config, field: str) -> str | int | float:
    """The value of a field as a label."""
    value = functools.reduce(lambda section, part: section[part], field.split("."), config)
    if field in _ALWAYS:
        return value[0]
    if field in ("student.hidden", "student.trunk"):
        value = value or config.net[field.removeprefix("student.")]
    if isinstance(value, tuple):
        return ("x" if all(isinstance(one, int) for one in value) else "+").join(map(str, value)) or "none"
    return "none" if value == "" else value


def _label(field: str) -> str:
    """The name of a column: the last word of a field of the student, the noise, theorem1 and language."""
    section, _, name = field.partition(".")
    return _NAMES.get(field, name if section in ("student", "perturb", "theorem1", "lm") else field.replace(".", "_"))


def _alike(values: list[Any]) -> list[Any]:
    """Values of one column, with whole numbers as floats where any other number is a float."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return [float(value) for value in values] if numbers and any(isinstance(v, float) for v in values) else values


def matching(layers: Iterable[str], patterns: Sequence[str], field: str) -> list[str]:
    """The layers that patterns like `hidden_*` match; raises `ConfigError` for a pattern that matches none."""
    layers, matched = list(layers), []
    for pattern in patterns:
        if not (names := named(layers, pattern)):
            raise ConfigError(unknown_name(f"config.{field}", pattern, layers))
        matched += names
    return matched


def named(layers: Iterable[str], pattern: str) -> list[str]:
    """The layers that a pattern like `hidden_*` matches, if any."""
    return fnmatch.filter(list(layers), pattern)

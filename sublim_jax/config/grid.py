"""Sweeps: the fields of a config that take several values, and the labels of the resulting rows.

A grid ("arm") mirrors the config; each of its leaves is a tuple of values, and the grid is their product. A config
without grids sweeps its `conditions` and its `m`; a grid may replace these. Several grids are run one after another.
"""

import fnmatch
import functools
import itertools
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FrozenConfigDict

from sublim_jax.core.errors import ConfigError, shown, unknown_name
from sublim_jax.core.nested import flatten

Config = Any  # an ml_collections.ConfigDict; its fields are not known to a type checker

SWEPT_ALWAYS = ("conditions", "m")  # swept and labelled in every config
# The fields that may differ between the points of a sweep.
SWEPT_SECTIONS = ("net", "teacher", "student", "perturb", "theorem1", "lm", "infomorphic", "transfer", "rows")
_SINGLE = (*SWEPT_ALWAYS, "classes")
# Rows have columns of their own for these: step, eps, alpha.
_UNLABELLED = ("student.steps", "student.eval_steps", "theorem1.eps", "theorem1.alpha", "theorem1.draws")
_UNLABELLED += ("lm.steps", "lm.eval_steps", "infomorphic.epochs", "infomorphic.eval_epochs")
_UNLABELLED += ("transfer.steps", "transfer.eval_steps", "student.epochs")
OWN_NUMBERS = "student.extra."  # before the names of numbers that a user's own loss or stream reads
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


def plain_name(name: str) -> str:
    """The dotted name of a field without the grid or the preset in front of it."""
    return re.sub(r"^(presets\.\w+\.)?(arms\.[^.]+\.)?", "", name)


def unknown_field(where: str, name: str, names: Iterable[str]) -> ConfigError:
    """The error for a field that does not exist: its new name if it was renamed, else the names that exist."""
    plain = plain_name(name)
    if plain in RENAMED:
        return ConfigError(f"{where}: {name!r} is now called {name.removesuffix(plain) + RENAMED[plain]!r}")
    hint = unknown_name(where, name, names).rpartition("; ")[2]
    near = f"; {hint}" if hint.startswith("did you mean") else ""
    return ConfigError(f"{where}: {shown(name)} is none of the fields that --fields lists{near}")


def declare_number(config: Config, field: str) -> None:
    """Add a number of the user's own, `student.extra.NAME`, as 0.0 to a config that lacks it; leave other fields alone.

    Raises:
        ConfigError: The name is no identifier, or a column of the rows has it already.
    """
    if field.startswith(OWN_NUMBERS) and "extra" in config.get("student", {}):
        check_number_name(field, flatten(config.to_dict()))
        name = field.removeprefix(OWN_NUMBERS)
        if name not in config.student.extra:
            with config.unlocked():
                config.student.extra[name] = 0.0


def check_number_name(field: str, known: Iterable[str]) -> None:
    """Refuse a number `student.extra.NAME` whose name is no identifier, or a column of rows with the fields `known`."""
    name = field.removeprefix(OWN_NUMBERS)
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ConfigError(f"config.{OWN_NUMBERS}{shown(name)[1:-1]}: its name must be a Python identifier")
    columns = {_label(other) for other in known if not other.startswith(OWN_NUMBERS)}
    if name in {"arm", "seed", "step", *columns}:
        raise ConfigError(f"config.{field}: its name must be another one; {name!r} is a field or column already")


class SweepPoint(NamedTuple):
    """One point of a sweep: the config with its values, the labels of its rows, and all m of its grid."""

    config: Config
    labels: dict[str, str | int | float]
    widths: tuple[int, ...]


def add_grid(config: Config, name: str, axes: Mapping[str, Any]) -> None:
    """Add a grid of values to a config.

    Args:
        config: The config, which is changed.
        name: Name of the grid, a label of its rows.
        axes: Tuples of values by dotted field: {"student.hidden": ((8, 256), (16, 256)), "m": (10, 50)}. A new number
            `student.extra.NAME` becomes a field of the config, which is 0.0 in grids that do not sweep it.

    Raises:
        ConfigError: The config has no such field, or the values are no tuple.
    """
    if not isinstance(name, str) or "." in name:
        raise ConfigError(f"arm {name!r}: the name of a grid must be text without dots")
    for field in axes:
        declare_number(config, field)
    flat = flatten(config.to_dict())
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


def expand(config: Config) -> tuple[SweepPoint, ...]:
    """Every point of a sweep, grid after grid; the last axis of a grid varies fastest.

    The latest sweeps are kept, so that a command that asks several times expands its config once.
    """
    grids(config)  # which refuses values that cannot be kept
    return _expand(FrozenConfigDict(config))


@functools.lru_cache(maxsize=4)
def _expand(config: FrozenConfigDict) -> tuple[SweepPoint, ...]:
    arms = grids(config)
    fields = ConfigDict({name: value for name, value in config.items() if name not in ("arms", "presets")}).lock()
    combinations = [
        (name, dict(zip(axes, values, strict=True)), tuple(axes.get("m", ())))
        for name, axes in arms.items()
        for values in itertools.product(*axes.values())
    ]
    configs = [_point(fields, values) for _, values, _ in combinations]
    columns = {"arm": [name for name, _, _ in combinations]} if len(arms) > 1 else {}
    for field in dict.fromkeys(field for _, values, _ in combinations for field in values):
        if field not in _UNLABELLED:
            columns[_label(field)] = _same_type([_label_value(point, field) for point in configs])
    return tuple(
        SweepPoint(point, {name: values[index] for name, values in columns.items()}, widths)
        for index, (point, (_, _, widths)) in enumerate(zip(configs, combinations, strict=True))
    )


def grids(config: Config) -> dict[str, dict[str, tuple[Any, ...]]]:
    """The fields that each grid sweeps with their values; one grid without a name where the config has none."""
    known = flatten(config.to_dict())
    common = {field: tuple(config[field]) for field in SWEPT_ALWAYS if field in config}
    arms = {name: flatten(arm) for name, arm in config.arms.to_dict().items()} or {"": {}}
    for name, axes in arms.items():
        for field, values in axes.items():
            if field not in _SINGLE and field.split(".")[0] not in SWEPT_SECTIONS:
                swept = f"{', '.join(_SINGLE)} and the fields of {', '.join(SWEPT_SECTIONS)}"
                raise ConfigError(f"config.arms.{name}.{field}: is one for a whole sweep; an arm may hold {swept}")
            if not isinstance(values, tuple) or not values:
                raise ConfigError(f"config.arms.{name}.{field}={shown(values)}: must be a tuple of values, not empty")
            if field not in known:
                raise unknown_field(f"config.arms.{name}", field, known)
            if not _hashable(values):
                raise ConfigError(f"config.arms.{name}.{field}={shown(values)}: must hold no lists; write tuples")
            if len(set(values)) != len(values):
                raise ConfigError(f"config.arms.{name}.{field}={shown(values)}: must not hold a value twice")
    return {name: {**common, **axes} for name, axes in arms.items()}


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _point(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    point = config.copy_and_resolve_references()
    try:
        point.update_from_flattened_dict(
            {name: (one,) if name in SWEPT_ALWAYS else one for name, one in values.items()}
        )
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"config.arms: {' '.join(str(error).split())}") from error
    return point


def _label_value(config: Config, field: str) -> str | int | float:
    """The value of a field as a label."""
    value = functools.reduce(lambda section, part: section[part], field.split("."), config)
    if field in SWEPT_ALWAYS:
        return value[0]
    if field in ("student.hidden", "student.trunk"):
        value = value or config.net[field.removeprefix("student.")]
    if isinstance(value, tuple):
        return ("x" if all(isinstance(one, int) for one in value) else "+").join(map(str, value)) or "none"
    return "none" if value == "" else value


def _label(field: str) -> str:
    """The name of a column: the last word of a field of the student, the noise, theorem1 and language."""
    section, _, name = field.partition(".")
    if section in ("student", "perturb", "theorem1", "lm", "infomorphic", "transfer"):
        return name.removeprefix("extra.")
    return "condition" if field == "conditions" else field.replace(".", "_")


def _same_type(values: list[Any]) -> list[Any]:
    """Values of one column, with whole numbers as floats where any other number is a float."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return [float(value) for value in values] if numbers and any(isinstance(v, float) for v in values) else values


def matching(layers: Iterable[str], patterns: Sequence[str], field: str) -> list[str]:
    """The layers that patterns like `hidden_*` match; raises `ConfigError` for a pattern that matches none."""
    names = list(layers)
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(unknown_name(f"config.{field}", pattern, names))
    return [name for pattern in patterns for name in fnmatch.filter(names, pattern)]

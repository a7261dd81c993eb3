"""The public functions, `import sublim_jax as sl`: from a config to rows, tables, figures and parameters.

Imports happen inside functions, so that `load`, `summarize` and `plot` need no JAX.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sublim_jax.config.fields import IMAGE_FIELDS
from sublim_jax.core import arguments
from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.results import figures, flatten, plots
from sublim_jax.results import rows as stored_rows

if TYPE_CHECKING:
    import flax.linen as nn
    from matplotlib.figure import Figure

    from sublim_jax.config.grid import Config
    from sublim_jax.core.types import Condition
    from sublim_jax.data.load import Dataset


@arguments.checked(preset=arguments.TEXT)
def base_config(preset: str = "paper", **fields: Any) -> Config:
    """Return the published protocol of Brockers et al. 2026, Figure 2, with some fields changed.

    Args:
        preset: `paper`, `laptop` (fewer seeds) or `smoke` (toy sizes).
        **fields: Any field of the config. `student__steps=100` and `student={"steps": 100}` both set `student.steps`;
            where a field holds a tuple, a single value means a tuple of one. `study="language"` gives the protocol of
            the language models, which has other fields: those of `world`, `net`, `pretraining` and `lm`;
            `study="infomorphic"` that of infomorphic networks, with fields of `infomorphic`; `study="llm"` that of
            pretrained models, with fields of `teacher`, `rows`, `student` and `evaluation`.
            `student={"extra": {"scale": 0.5}}` adds a number that a loss of your own reads as `knobs.extra["scale"]`.

    Returns:
        A config whose fields can be read and set: `config.student.steps = 100`.

    Raises:
        ConfigError: There is no such field or preset, or a value cannot be used.

    Example:
        >>> import sublim_jax as sl
        >>> config = sl.base_config("laptop", conditions=("same", "random_hidden"), m=50, student__lr=3e-4)
        >>> config.seeds, config.m, config.student.lr
        (3, (50,), 0.0003)
        >>> sl.base_config(student={"stepz": 100})
        Traceback (most recent call last):
        sublim_jax.core.errors.ConfigError: config: there is no field 'student.stepz'; did you mean 'student.steps'?
    """
    from sublim_jax import config as configs
    from sublim_jax.config import grid, llm, lm, schema

    schema.check_value("preset", preset, IMAGE_FIELDS["preset"].rule)
    others = {"language": lm.base, "infomorphic": configs.infomorphic_config, "llm": llm.base}
    if fields.get("study") in others:
        config = others[fields["study"]]()
    else:
        config = configs.base_config("smoke" if preset == "smoke" else "paper")
    if preset != "paper":
        schema.set_fields(config, flatten(config.presets[preset].to_dict()))
    for name, value in flatten(fields).items():
        field = name.replace("__", ".")
        grid.declare_number(config, field)
        known = flatten(config.to_dict())
        if field not in known:
            raise _no_field(field, known)
        schema.set_fields(config, {field: _config_value(value, known[field])})
    configs.resolve(config)  # checks every value
    return config


def _no_field(field: str, known: Iterable[str]) -> ConfigError:
    hint = unknown_name("config", field, known).rpartition("; ")[2]
    return ConfigError(
        f"config: there is no field {field!r}" + (f"; {hint}" if hint.startswith("did you mean") else "")
    )


def _config_value(value: Any, default: Any) -> Any:
    """A value of Python instead of NumPy; a tuple where the field's default is one."""
    if isinstance(default, tuple):
        values = value if isinstance(value, list | tuple | range | np.ndarray) else (value,)
        return tuple(_config_value(each, None) for each in values)
    return value.item() if isinstance(value, np.generic) else value


@arguments.checked(config=arguments.CONFIG, name=arguments.TEXT, axes=arguments.MAPPING)
def add_grid(config: Config, name: str, axes: Mapping[str, Any]) -> None:
    """Add a sweep to a config: all combinations of the values of some fields.

    Args:
        config: Config to change.
        name: Name of the sweep; a label of the rows where a config has several.
        axes: Dotted field name -> values. `conditions` and `m` are swept too, over their values in the config, unless
            they are given here. `student.extra.NAME` sweeps a number that a loss or stream of your own reads as
            `knobs.extra[NAME]`; its column is NAME, and it is 0.0 in grids without it unless the config sets it.

    Raises:
        ConfigError: There is no such field, or its values are no sequence.

    Example:
        >>> import sublim_jax as sl
        >>> config = sl.base_config("smoke", conditions="same", m=3)
        >>> sl.add_grid(config, "noise", {"perturb.student_before": [0.0, 0.05]})
        >>> [condition.labels["student_before"] for condition in sl.build(config)]
        [0.0, 0.05]
    """
    from sublim_jax.config import grid

    for field in axes:
        grid.declare_number(config, field)
    known = flatten(config.to_dict())
    for field, values in axes.items():
        if field not in known:
            raise ConfigError(f"grid {name!r}: {_no_field(field, known)}")
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise ConfigError(f"grid {name!r}: {field}={values!r}: must be a sequence of values")
        if not len(tuple(values)):
            raise ConfigError(f"grid {name!r}: {field}={values!r}: must have at least one value")
    swept = {field: tuple(_config_value(value, None) for value in values) for field, values in axes.items()}
    grid.add_grid(config, name, swept)


@arguments.checked(config=arguments.NAMED_DATA)
def load_data(config: Config | str = "mnist", **arrays: Any) -> Dataset:
    """Load images and labels: those that a config names, a data set by name, or NumPy arrays.

    Args:
        config: A config, or one of `mnist`, `fashion_mnist`, `kmnist`, `emnist/balanced`, `emnist/letters`.
        **arrays: `x`, `y`, `x_test`, `y_test` instead: images [n, height, width], uint8 or floats in [0, 1], and
            integer labels [n] from 0. With them `mean` and `std`, which normalise the images; default: those of `x`.
            Without arrays: fields of `config.data`, for instance `train_limit=1000`.

    Returns:
        Training and test images.

    Raises:
        ConfigError: The data set is not there, or an array has another dtype, shape or range.

    Example:
        >>> import numpy as np, sublim_jax as sl
        >>> x, y = np.random.default_rng(0).random((60, 8, 8)), np.arange(60) % 3
        >>> data = sl.load_data(x=x[:40], y=y[:40], x_test=x[40:], y_test=y[40:])
        >>> data.classes, data.train.x.shape
        (3, (40, 8, 8))
    """
    from sublim_jax import config as configs
    from sublim_jax import data
    from sublim_jax.data.arrays import from_arrays

    if {"x", "y", "x_test", "y_test"} & arrays.keys():
        _check_arguments(from_arrays, arrays)
        return from_arrays(**arrays)
    if isinstance(config, str):
        _check_arguments(data.load_dataset, {"name": config, **arrays})
        return data.load_dataset(config, **arrays)
    if arrays:
        raise ConfigError(f"load_data: {min(arrays)} stands in config.data; set it there")
    return configs.load_data(_image_config(config))


def _check_arguments(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuse keyword arguments of `load_data` that the function does not have, or lacks."""
    parameters = inspect.signature(function).parameters
    for name in given:
        if name not in parameters:
            raise ConfigError(unknown_name("load_data", name, parameters))
    needed = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    if missing := [name for name in needed if name not in given]:
        raise ConfigError(f"load_data: {', '.join(missing)} missing; give {', '.join(needed)}")


def _image_config(config: Config) -> Config:
    """The config with its preset applied; refuses one of language models."""
    from sublim_jax import config as configs

    if config.study in ("language", "llm"):
        raise ConfigError(f"config.study={config.study!r}: has no images and no conditions; give the config to run")
    return configs.resolve(config)


@arguments.checked(config=arguments.CONFIG, data=arguments.OPTIONAL_DATASET)
def build(config: Config, data: Dataset | None = None, *, trunk: nn.Module | None = None) -> tuple[Condition, ...]:
    """Turn a config into conditions: one teacher and one student for every point of its sweep.

    Args:
        config: Config from `base_config`.
        data: Images and labels; by default the config names them.
        trunk: Linen module below the heads of teacher and student, instead of `config.net`. It maps images
            [batch, height, width] to (features [batch, d], mapping from names to activations [batch, ...]).

    Returns:
        Conditions, which `run` and `train_pair` take. `condition.with_student(loss=...)` changes one.

    Raises:
        ConfigError: A value cannot be used, or the trunk does not return features and activations.

    Example:
        >>> import sublim_jax as sl
        >>> conditions = sl.build(sl.base_config("smoke", conditions=("same", "random"), m=3))
        >>> [condition.labels["condition"] for condition in conditions]
        ['same', 'random']
    """
    from sublim_jax import config as configs

    config = _image_config(config)
    data = configs.load_data(config) if data is None else data
    if trunk is not None:
        _check_trunk(trunk, data.train.x.shape[1:])
    return configs.build_conditions(config, data, trunk)


def _check_trunk(trunk: nn.Module, image: tuple[int, ...]) -> None:
    """Trace the trunk and refuse one that does not return (features, activations)."""
    import jax

    name, batch = type(trunk).__name__, jax.ShapeDtypeStruct((2, *image), np.float32)
    wanted = "must map [batch, height, width] to (features [batch, d], activations by name)"
    try:
        out, _ = jax.eval_shape(trunk.init_with_output, jax.random.key(0), batch)
    except Exception as error:
        raise ConfigError(f"trunk {name}: fails on images {image} ({str(error).splitlines()[0]}); {wanted}") from error
    features, acts = out if isinstance(out, tuple) and len(out) == 2 else (None, None)
    if not isinstance(acts, Mapping) or getattr(features, "shape", ())[:-1] != (2,):
        raise ConfigError(f"trunk {name}: returns {jax.tree.map(lambda leaf: leaf.shape, out)}; {wanted}")


@arguments.checked(
    config=arguments.STUDY, data=arguments.OPTIONAL_DATASET, seeds=arguments.SEEDS, workdir=arguments.OPTIONAL_PATH
)
def run(
    config: Config | Sequence[Condition],
    data: Dataset | None = None,
    *,
    seeds: int | Sequence[int] | None = None,
    workdir: str | Path | None = None,
    keep_params: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """Train all teachers and students and return tidy rows, one per condition, seed and evaluated step.

    Args:
        config: A config of any study, or conditions from `build`.
        data: Images and labels; by default the config names them. A language study takes no images.
        seeds: A number (seeds 0, 1, ...) or the seeds; default: those of the config, or 4.
        workdir: Folder for rows, checkpoints and teachers; a run that was interrupted continues there.
        keep_params: Also keep the trained parameters in `workdir`, for `params`.
        **options: Fields of `sublim_jax.engine.session.Session`, for instance `options`, `progress`, `resume`,
            `tracker`, and arguments of `sublim_jax.engine.run.run`: `metrics`, `root_seed`, `num_eval_noise`.

    Returns:
        Labels, `seed`, `step`, measured columns `at/...` and predicted columns `theory/...`.

    Raises:
        ConfigError: A value cannot be used, or `workdir` belongs to another config.

    Example:
        rows = sl.run(sl.base_config(m=(10, 100)), sl.load_data("fashion_mnist"), seeds=4, workdir="results/fashion")
    """
    from sublim_jax.engine.session import Session

    if keep_params and workdir is None:
        raise ConfigError("keep_params: needs a workdir, where parameters are kept")
    _check_options(options)
    study, given = _study(config, data)
    given |= {field.name: options.pop(field.name) for field in dataclasses.fields(Session) if field.name in options}
    if seeds is not None:
        given["seeds"] = seeds if isinstance(seeds, Iterable) else range(seeds)
    session = Session(workdir=workdir, **given)
    session.options = dataclasses.replace(session.options, keep_params=keep_params or session.options.keep_params)
    return study(session, **options)


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that `run` does not have, and metrics that are no functions."""
    from sublim_jax.engine.session import Session

    known = [field.name for field in dataclasses.fields(Session) if field.init]
    for name in options:
        if name not in (*known, "metrics", "root_seed", "num_eval_noise"):
            raise ConfigError(unknown_name("run", name, ["metrics", "root_seed", "num_eval_noise", *known]))
    metrics = options.get("metrics", ())
    if not isinstance(metrics, tuple) or not all(map(callable, metrics)):
        raise ConfigError(f"metrics={metrics!r}: must be a tuple of functions, like (*sl.metrics.ALL, my_metric)")


def _study(config: Any, data: Dataset | None) -> tuple[Callable[..., pd.DataFrame], dict[str, Any]]:
    """The function from a session to rows, and the fields of the session that a config gives."""
    from sublim_jax import config as configs
    from sublim_jax.config.study import study_of
    from sublim_jax.engine.run import run

    if hasattr(config, "to_dict"):
        config = configs.resolve(config)
        given = {"seeds": configs.seeds_of(config), "config": configs.identity(config)}
        return study_of(config, data).run, {**given, "options": configs.options_of(config)}
    if data is None:
        raise ConfigError("run: conditions need data; give run(conditions, data)")
    return functools.partial(run, tuple(config), data), {}


@arguments.checked(workdir=arguments.PATH)
def load(workdir: str | Path) -> pd.DataFrame:
    """Read the rows of a work folder, or of a kept experiment (a folder with `rows.parquet`).

    Args:
        workdir: The folder.

    Returns:
        Tidy rows, as `run` returns them.

    Raises:
        ConfigError: There are no rows, or a file is damaged.

    Example:
        >>> import sublim_jax as sl
        >>> sl.load("/nowhere")
        Traceback (most recent call last):
        sublim_jax.core.errors.ConfigError: workdir=/nowhere: holds no rows (no rows/*.parquet)
    """
    return stored_rows.read(workdir)


@arguments.checked(rows=arguments.ROWS, figure=arguments.TEXT)
def summarize(rows: pd.DataFrame, figure: str = "transfer") -> pd.DataFrame:
    """Return the table beside a figure: by default accuracies at the last step by condition.

    Args:
        rows: Rows from `run` or `load`.
        figure: Name of a figure; see `plot`.

    Returns:
        Texts: mean and 95 % interval over seeds of the student, means of the rest.

    Raises:
        ConfigError: There is no such figure.

    Example:
        >>> import pandas as pd, sublim_jax as sl
        >>> rows = pd.DataFrame({"condition": "same", "m": 3, "seed": [0, 1, 2], "step": 2, "at/student_accuracy": 0.5})
        >>> sl.summarize(rows).loc[0, "student accuracy"]
        '0.500 [0.500, 0.500]'
    """
    return figures.table(figures.pick(figure), rows)


@arguments.checked(rows=arguments.ROWS, figure=arguments.TEXT)
def plot(rows: pd.DataFrame, figure: str = "transfer") -> Figure:
    """Draw rows.

    Args:
        rows: Rows from `run` or `load`.
        figure: Name of a figure, as `config.figure` has it: `transfer`, `figure4`, ...

    Returns:
        A Matplotlib figure.

    Raises:
        ConfigError: There is no such figure.

    Example:
        >>> import pandas as pd, sublim_jax as sl
        >>> rows = pd.DataFrame({"condition": "same", "m": 3, "seed": [0, 1], "step": 2, "at/student_accuracy": 0.5})
        >>> type(sl.plot(rows)).__name__
        'Figure'
    """
    import matplotlib

    with matplotlib.rc_context(plots.STYLE):
        return figures.pick(figure).draw(rows)

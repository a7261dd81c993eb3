"""The public functions, `import sublim_jax as sl`: from a config to rows, tables, figures and parameters.

Imports happen inside functions, so that `load`, `summarize` and `plot` need no JAX.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.files import replace_file
from sublim_jax.results import figures, flatten, plots
from sublim_jax.results import workdir as workdirs

if TYPE_CHECKING:
    import flax.linen as nn
    from matplotlib.figure import Figure

    from sublim_jax.config.grid import Config
    from sublim_jax.core.types import Condition
    from sublim_jax.data.load import Dataset


def base_config(preset: str = "paper", **fields: Any) -> Config:
    """Return the published protocol of Brockers et al. 2026, Figure 2, with some fields changed.

    Args:
        preset: `paper`, `laptop` (3 seeds) or `smoke` (toy sizes).
        **fields: Any field of the config. `student__steps=100` and `student={"steps": 100}` both set `student.steps`;
            where a field holds a tuple, a single value means a tuple of one.

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
    from sublim_jax.config.schema import PRESETS, check

    if preset not in PRESETS:
        raise ConfigError(unknown_name("config.preset", preset, PRESETS))
    config = configs.base_config("smoke" if preset == "smoke" else "paper")
    if preset == "laptop":
        config.update_from_flattened_dict(flatten(config.presets.laptop.to_dict()))
    known = flatten(config.to_dict())
    for field, value in _dotted(fields).items():
        if field not in known:
            raise ConfigError(_no_field(field, known))
        _set(config, field, known[field], value)
    check(config)
    return config


def _dotted(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by dotted name; `a__b` is `a.b`, and mappings are entered."""
    found = {}
    for name, value in fields.items():
        field = name.replace("__", ".")
        nested = _dotted(value) if isinstance(value, Mapping) else {"": value}
        found |= {f"{field}.{inner}".rstrip("."): one for inner, one in nested.items()}
    return found


def _no_field(field: str, known: Iterable[str]) -> str:
    hint = unknown_name("config", field, known).rpartition("; ")[2]
    return f"config: there is no field {field!r}" + (f"; {hint}" if hint.startswith("did you mean") else "")


def _set(config: Config, field: str, default: Any, value: Any) -> None:
    if isinstance(default, tuple):
        value = tuple(value) if isinstance(value, list | tuple | range | np.ndarray) else (value,)
    value = tuple(map(_plain, value)) if isinstance(value, tuple) else _plain(value)
    try:
        config.update_from_flattened_dict({field: value})
    except (TypeError, ValueError) as error:
        kind = type(default).__name__
        raise ConfigError(f"config.{field}={value!r}: must be of type {kind}, as its default {default!r}") from error


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def add_grid(config: Config, name: str, axes: Mapping[str, Any]) -> None:
    """Add a sweep to a config: all combinations of the values of some fields.

    Args:
        config: Config to change.
        name: Name of the sweep; a label of the rows where a config has several.
        axes: Dotted field name -> values. `conditions` and `m` are swept too, over their values in the config, unless
            they are given here.

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

    known = flatten(config.to_dict())
    found = {}
    for field, values in axes.items():
        if field not in known:
            raise ConfigError(_no_field(field, known))
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise ConfigError(f"grid {name!r}: {field}={values!r}: must be a sequence of values")
        found[field] = tuple(tuple(one) if isinstance(one, list) else _plain(one) for one in values)
    grid.add_grid(config, name, found)


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

    needed = {"x", "y", "x_test", "y_test"}
    if needed & arrays.keys():
        if missing := sorted(needed - arrays.keys()):
            raise ConfigError(f"load_data: {', '.join(missing)} missing; give x, y, x_test and y_test")
        if unknown := sorted(arrays.keys() - needed - {"mean", "std"}):
            raise ConfigError(unknown_name("load_data", unknown[0], (*needed, "mean", "std")))
        return from_arrays(**arrays)
    if not isinstance(config, str):
        if arrays:
            raise ConfigError(f"load_data: {sorted(arrays)[0]} stands in config.data; set it there")
        return configs.load_data(configs.resolve(config))
    fields = configs.base_config().data.to_dict().keys() - {"name", "more_folder"}
    for name in arrays:
        if name not in fields:
            raise ConfigError(unknown_name("load_data", name, sorted(fields)))
    return data.load_dataset(config, **arrays)


def build(config: Config, data: Dataset | None = None, *, trunk: nn.Module | None = None) -> tuple[Condition, ...]:
    """Turn a config into conditions: one teacher and one student for every point of its sweep.

    Args:
        config: Config from `base_config`.
        data: Images and labels; default: those that the config names.
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

    config = configs.resolve(config)
    data = load_data(config) if data is None else data
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
        config: A config, or conditions from `build`.
        data: Images and labels; default: those that the config names.
        seeds: A number (seeds 0, 1, ...) or the seeds; default: those of the config, or 4.
        workdir: Folder for rows, checkpoints and teachers; a run that was interrupted continues there.
        keep_params: Also keep the trained parameters in `workdir`, for `params`.
        **options: Further fields of `sublim_jax.engine.session.Session`, for instance `options`, `progress`, `resume`,
            and arguments of `sublim_jax.engine.run.run`: `metrics`, `root_seed`, `num_eval_noise`.

    Returns:
        Labels, `seed`, `step`, measured columns `at/...` and predicted columns `theory/...`.

    Raises:
        ConfigError: A value cannot be used, or `workdir` belongs to another config.

    Example:
        data = sl.load_data("fashion_mnist")
        rows = sl.run(sl.base_config(m=(10, 100)), data, seeds=4, workdir="results/fashion")
    """
    import dataclasses
    import functools

    from sublim_jax import config as configs
    from sublim_jax.config.study import study_of
    from sublim_jax.engine import run as engine
    from sublim_jax.engine.session import Session

    given: dict[str, Any] = {"workdir": workdir}
    if hasattr(config, "to_dict"):
        config = configs.resolve(config)
        given |= {"seeds": configs.seeds_of(config), "options": configs.options_of(config)}
        given |= {"config": configs.identity(config)}
        study = study_of(config, data).run
    elif data is None:
        raise ConfigError("run: conditions need data; give run(conditions, data)")
    else:
        study = functools.partial(engine.run, tuple(config), data)
    if seeds is not None:
        given["seeds"] = range(seeds) if isinstance(seeds, int) else seeds
    fields = {field.name for field in dataclasses.fields(Session)}
    given |= {name: options.pop(name) for name in options.keys() & fields}
    session = Session(**given)
    if keep_params:
        if workdir is None:
            raise ConfigError("keep_params: needs a workdir, where parameters are kept")
        session.options = dataclasses.replace(session.options, keep_params=True)
    return study(session, **options)


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
    kept = Path(workdir) / "rows.parquet"
    if (Path(workdir) / "rows").is_dir() or not kept.is_file():
        return workdirs.load(workdir)
    try:
        return pd.read_parquet(kept)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{kept}: cannot be read ({str(error).splitlines()[0]})") from error


def summarize(rows: pd.DataFrame, figure: str = "transfer") -> pd.DataFrame:
    """Return the table beside a figure: by default accuracies at the last step by condition.

    Args:
        rows: Rows from `run` or `load`.
        figure: Name of a figure; see `plot`.

    Returns:
        Texts: mean and 95 % bootstrap interval over seeds of the student, means of the rest.

    Raises:
        ConfigError: There is no such figure.

    Example:
        >>> import pandas as pd, sublim_jax as sl
        >>> rows = pd.DataFrame({"condition": "same", "m": 3, "seed": [0, 1], "step": 2, "at/student_accuracy": 0.5})
        >>> sl.summarize(rows).loc[0, "student accuracy"]
        '0.500 [0.500, 0.500]'
    """
    return figures.table(figures.pick(figure), rows)


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


def params(workdir: str | Path, seed: int = 0, **labels: Any) -> Any:
    """Return parameters that `run(..., keep_params=True)` kept.

    Args:
        workdir: Folder of the run.
        seed: Seed of the student.
        **labels: Labels that name one condition, for instance `condition="same", m=10`.

    Returns:
        What `sublim_jax.engine.params.load_params_of` returns.

    Raises:
        ConfigError: The folder holds no parameters of that condition and seed.
    """
    # By name: only this function needs the module.
    return importlib.import_module("sublim_jax.engine.params").load_params_of(workdir, seed, **labels)


def save_params(params: Any, path: str | Path) -> None:
    """Save nested parameters as a safetensors file, which is written whole or not at all.

    Args:
        params: Nested mappings of arrays; names are joined by `/`, for instance `hidden_0/kernel`.
        path: File to write.

    Raises:
        ConfigError: A name holds `/` or is no text, or a leaf is no array.

    Example:
        >>> import tempfile, numpy as np, sublim_jax as sl
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sl.save_params({"hidden_0": {"bias": np.zeros(3)}}, f"{folder}/student.safetensors")
        ...     sl.load_params(f"{folder}/student.safetensors")
        {'hidden_0': {'bias': array([0., 0., 0.])}}
    """
    from safetensors import numpy as safetensors

    try:
        # Contiguous copies: safetensors writes the memory of an array, whatever its strides are.
        content = safetensors.save({name: np.array(leaf, order="C") for name, leaf in _leaves(params)})
        replace_file(Path(path), content)
    except OSError as error:
        raise ConfigError(f"path={path}: cannot be written ({error.strerror or error})") from error


def _leaves(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        if not path or getattr(getattr(tree, "dtype", None), "kind", "O") not in "fiubV":
            raise ConfigError(f"params: {path or 'the whole'} is {type(tree).__name__}; must be nested dicts of arrays")
        return [(path, tree)]
    for name in tree:
        if not isinstance(name, str) or "/" in name or not name:
            raise ConfigError(f"params: the name {name!r} cannot be saved; must be a text without '/'")
    return [leaf for name, value in tree.items() for leaf in _leaves(value, f"{path}/{name}".lstrip("/"))]


def _array(dtype: str, shape: Sequence[int], data: bytes | bytearray) -> np.ndarray:
    """An array of a safetensors file; its own reader for NumPy knows no bfloat16."""
    import ml_dtypes

    named = {"BF16": ml_dtypes.bfloat16, "BOOL": np.bool_}
    kind = named.get(dtype) or f"<{dtype[0].lower()}{int(dtype[1:]) // 8}"
    return np.frombuffer(data, kind).reshape(shape).copy()


def load_params(path: str | Path) -> dict[str, Any]:
    """Read parameters that `save_params` saved.

    Args:
        path: A safetensors file.

    Returns:
        Nested dicts of NumPy arrays.

    Raises:
        ConfigError: The file is not there or damaged.

    Example:
        >>> import sublim_jax as sl
        >>> sl.load_params("/nowhere.safetensors")
        Traceback (most recent call last):
        sublim_jax.core.errors.ConfigError: path=/nowhere.safetensors: cannot be read (No such file or directory)
    """
    from safetensors import SafetensorError, deserialize

    try:
        found = deserialize(Path(path).read_bytes())
        flat = {name: _array(**fields) for name, fields in found}
    except OSError as error:
        raise ConfigError(f"path={path}: cannot be read ({error.strerror})") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise ConfigError(f"path={path}: is no whole safetensors file ({error})") from error
    nested: dict[str, Any] = {}
    for name, array in flat.items():
        *layers, last = name.split("/")
        here = nested
        for layer in layers:
            here = here.setdefault(layer, {})
        here[last] = array
    return nested

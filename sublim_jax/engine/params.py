"""Parameters as safetensors files: of one net, and of all students of a work directory."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from sublim_jax.core import files, trees
from sublim_jax.core.arguments import PATH, checked
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import DamagedFile
from sublim_jax.core.types import Knobs, Params, Recipe
from sublim_jax.training import population
from sublim_jax.training import step as training_step

FOLDER = "params"  # in a work directory


@checked(path=PATH)
def save_params(params: Any, path: str | Path) -> None:
    """Save nested parameters as a safetensors file, which is written whole or not at all.

    Args:
        params: Nested mappings of arrays; names are joined by `/`, for instance `hidden_0/kernel`.
        path: File to write.

    Raises:
        ConfigError: A name holds `/` or is no text, a leaf is no array, or the file cannot be written.

    Example:
        >>> import tempfile, numpy as np, sublim_jax as sl
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sl.save_params({"hidden_0": {"bias": np.zeros(3)}}, f"{folder}/student.safetensors")
        ...     sl.load_params(f"{folder}/student.safetensors")
        {'hidden_0': {'bias': array([0., 0., 0.])}}
    """
    try:
        save_arrays(dict(_leaves(params)), path)
    except OSError as error:
        raise ConfigError(f"path={path}: cannot be written ({error.strerror or error})") from error


@checked(path=PATH)
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
    try:
        return traverse_util.unflatten_dict(load_arrays(path), sep="/")
    except DamagedFile as error:
        raise ConfigError(f"path={path}: {error.reason}") from error


def save_arrays(
    arrays: Mapping[str, Any], path: str | Path, metadata: Mapping[str, str] | None = None, *, of: str = ""
) -> None:
    """Write arrays by name as one sealed safetensors file; raises OSError where it cannot be written."""
    # Contiguous copies: safetensors writes the memory of an array, whatever its strides are.
    copies = {name: np.array(array, order="C") for name, array in arrays.items()}
    files.write_sealed(Path(path), safetensors.numpy.save(copies, {**(metadata or {}), "seal": files.seal(of)}))


def load_arrays(path: str | Path, of: str | None = None, *, sealed: bool = False) -> dict[str, np.ndarray]:
    """The NumPy arrays by name of a safetensors file; arguments as `files.read_sealed` has them.

    Raises:
        ConfigError: The file is missing.
        DamagedFile: It is damaged.
    """
    path = Path(path)
    try:
        content = files.read_sealed(path, of, required=sealed)
        return {name: _array(**fields) for name, fields in safetensors.deserialize(content)}
    except FileNotFoundError as error:
        raise ConfigError(f"path={path}: cannot be read ({error.strerror})") from error
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(path, f"is no whole safetensors file ({error})") from error


def _array(dtype: str, shape: Sequence[int], data: bytes | bytearray) -> np.ndarray:
    """An array of a safetensors file; the library's own reader for NumPy knows no bfloat16."""
    special = {"BF16": ml_dtypes.bfloat16, "BOOL": np.bool_}
    return np.frombuffer(data, special.get(dtype) or f"<{dtype[0].lower()}{int(dtype[1:]) // 8}").reshape(shape).copy()


def _leaves(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    """The arrays of a tree by name; refuses a tree that could not be read back."""
    if not isinstance(tree, Mapping):
        if not path or getattr(getattr(tree, "dtype", None), "kind", "O") not in "fiubV":
            raise ConfigError(f"params: {path or 'the whole'} is {type(tree).__name__}; must be nested dicts of arrays")
        return [(path, tree)]
    for name in tree:
        if not isinstance(name, str) or "/" in name or not name:
            raise ConfigError(f"params: the name {name!r} cannot be saved; must be a text without '/'")
    return [leaf for name, value in tree.items() for leaf in _leaves(value, f"{path}/{name}".lstrip("/"))]


def flat_layers(layers: Params) -> dict[str, Any]:
    """Arrays by layer and name as arrays by one name; `layers_of` is the inverse."""
    return {f"{layer}/{name}": array for layer, arrays in layers.items() for name, array in arrays.items()}


def layers_of(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Arrays by layer and name, from names of which the first part is the layer's."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for path, array in arrays.items():
        layer, _, name = path.partition("/")
        layers.setdefault(layer, {})[name] = array
    return layers


def params(workdir: str | Path, seed: int = 0, **labels: Any) -> dict[str, Any]:
    """Read the final parameters of one student of a run with `keep_params`.

    Args:
        workdir: The work directory of the run.
        seed: The student's seed.
        **labels: Labels of its condition, for instance `condition="same", m=10`. Labels that are equal in all
            conditions can be left out.

    Returns:
        NumPy arrays as the Linen module nests them, with the noise that the condition adds after training.

    Raises:
        ConfigError: No student matches, or students of several conditions do; the message says what exists.
    """
    students = [student for path in _paths(workdir) for student in _students(path)]
    matching = [each for each in students if each.seed == seed and labels.items() <= each.labels.items()]
    if not matching or any(each.labels != matching[0].labels for each in matching):
        wanted = ", ".join(f"{name}={value!r}" for name, value in {**labels, "seed": seed}.items())
        conditions = list(dict.fromkeys(str(each.labels) for each in matching or students))
        seeds = sorted({each.seed for each in students})
        dots = "; ..." if len(conditions) > 8 else ""
        exist = f"{'; '.join(conditions[:8])}{dots}; seeds {seeds}" if students else "none"
        raise ConfigError(
            f"params: {wanted} is {'ambiguous' if matching else 'not stored'} in {workdir}; there: {exist}"
        )
    student = matching[-1]
    with _open(student.path) as file:
        arrays = {name: file.get_slice(name)[student.row, student.column] for name in file.keys()}  # noqa: SIM118
    return trees.unflatten_layers(layers_of(arrays))


def save_students(
    workdir: Path, name: str, params: Params, labels: Sequence[Mapping[str, Any]], seeds: Sequence[int]
) -> None:
    """Write the parameters [seed, condition] of some students as one file; rows beyond `seeds` are padding."""
    (workdir / FOLDER).mkdir(exist_ok=True)
    arrays = {name: array[: len(seeds)] for name, array in flat_layers(params).items()}
    metadata = {"labels": json.dumps([dict(each) for each in labels]), "seeds": json.dumps(list(seeds))}
    save_arrays(arrays, workdir / FOLDER / f"{name}.safetensors", metadata)


def stored_seeds(workdir: str | Path) -> dict[frozenset, set[int]]:
    """For each condition (its labels) the seeds whose students are stored; damaged files are set aside."""
    seeds: dict[frozenset, set[int]] = {}
    for path in _paths(workdir):
        try:
            students = _students(path)
        except DamagedFile as error:
            files.set_aside(error)
            continue
        for student in students:
            seeds.setdefault(frozenset(student.labels.items()), set()).add(student.seed)
    return seeds


@functools.partial(jax.jit, static_argnames=("recipe", "untrained_layers", "ends", "image", "mesh"))
def final_params(  # noqa: PLR0913  all inputs of a pure program
    recipe: Recipe,
    params: Params,
    knobs: trees.Stack,
    initial_teachers: Params,
    seed_keys: Any,
    train_index: Any,
    *,
    untrained_layers: tuple[str, ...],
    ends: bool,
    image: tuple[int, ...],
    mesh: Any,
) -> Params:
    """Parameters [seed, condition] as `metrics.evaluate` measures them; arguments as there.

    `params` are those of distinct trainings [seed, distinct training], `untrained_layers` come from each condition's
    own initialisation, and `ends` says whether noise is added after training.
    """

    def one_seed(params: Any, teacher: Any, key: Any, tree: Any, train_index: Any) -> Any:
        def member(index: Any, member_knobs: Knobs) -> Any:
            initial = training_step.init_state(recipe, member_knobs, teacher, image, key).params
            own = trees.merge_layers(trees.index(params, index), {name: initial[name] for name in untrained_layers})
            return training_step.add_final_noise(member_knobs, own, key) if ends else own

        return jax.vmap(member, (0, knobs.in_axes()))(train_index, tree)

    return population.each_seed(one_seed, mesh, (params, initial_teachers, seed_keys), (knobs.tree, train_index))


class _Student(NamedTuple):
    """A stored student: its file, its indices there, its labels and its seed."""

    path: Path
    row: int
    column: int
    labels: dict[str, Any]
    seed: int


def _paths(workdir: str | Path) -> list[Path]:
    return sorted((Path(workdir) / FOLDER).glob("*.safetensors"))


def _students(path: Path) -> list[_Student]:
    """Every student of a file; raises `DamagedFile` where it is not whole."""
    with _open(path) as file:
        try:
            labels, seeds = (json.loads(file.metadata()[name]) for name in ("labels", "seeds"))
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(path, "holds no students of a run") from error
    return [
        _Student(path, row, column, own, seed) for column, own in enumerate(labels) for row, seed in enumerate(seeds)
    ]


def _open(path: Path) -> Any:
    files.read_sealed(path, required=False)
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise DamagedFile(path, f"not a whole safetensors file ({' '.join(str(error).split())})") from error

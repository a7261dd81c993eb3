"""Parameters as safetensors files: of one net, and of all students of a work directory."""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from sublim_jax.core import trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import replace_file
from sublim_jax.core.types import Knobs, Params, Recipe
from sublim_jax.training import population
from sublim_jax.training import step as training_step

FOLDER = "params"  # in a work directory


def save_tree(params: Mapping[str, Any], path: str | Path) -> None:
    """Write a nested mapping of arrays as one safetensors file; names of nested entries are joined by '/'.

    Args:
        params: Arrays by name, nested to any depth.
        path: The file; it is written whole or not at all.
    """
    replace_file(Path(path), safetensors.numpy.save(_flatten(params)))


def load_tree(path: str | Path) -> dict[str, Any]:
    """Read what `save_tree` wrote, as NumPy arrays.

    Raises:
        ConfigError: The file is missing or damaged.
    """
    with _open(Path(path)) as file:
        return _nest({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  not a mapping


def load_params_of(workdir: str | Path, seed: int, **labels: Any) -> dict[str, Any]:
    """Read the final parameters of one student of a run with `keep_params`.

    Args:
        workdir: The work directory of the run.
        seed: The student's seed.
        **labels: Labels of its condition, as in the columns of the rows; those that differ between conditions suffice.

    Returns:
        NumPy arrays by layer and name, with the noise that the condition adds after training.

    Raises:
        ConfigError: No student matches, or students of several conditions do; the message says what exists.
    """
    stored = list(_students(workdir))
    matching = [one for one in stored if one[3] == seed and all(one[2].get(k) == v for k, v in labels.items())]
    wanted = ", ".join(f"{name}={value!r}" for name, value in {**labels, "seed": seed}.items())
    if not matching or any(one[2] != matching[0][2] for one in matching):
        there = list(dict.fromkeys(str(one[2]) for one in matching or stored))
        seeds = sorted({one[3] for one in stored})
        exist = f"{'; '.join(there[:8])}{'; ...' if len(there) > 8 else ''}; seeds {seeds}" if stored else "none"
        raise ConfigError(
            f"params: {wanted} is {'ambiguous' if matching else 'not stored'} in {workdir}; there: {exist}"
        )
    path, (row, column), *_ = matching[-1]
    with _open(path) as file:
        nested = _nest({name: file.get_slice(name)[row, column] for name in file.keys()})  # noqa: SIM118
    return trees.unflatten_layers(trees.flatten_layers(nested))


def save_students(
    workdir: Path, name: str, params: Params, labels: Sequence[Mapping[str, Any]], seeds: Sequence[int]
) -> None:
    """Write the parameters [seed, condition] of some students as one file; rows beyond `seeds` are padding."""
    (workdir / FOLDER).mkdir(exist_ok=True)
    flat = {name: np.ascontiguousarray(array[: len(seeds)]) for name, array in _flatten(params).items()}
    about = {"labels": json.dumps([dict(one) for one in labels]), "seeds": json.dumps(list(seeds))}
    replace_file(workdir / FOLDER / f"{name}.safetensors", safetensors.numpy.save(flat, about))


def stored_seeds(workdir: str | Path) -> dict[frozenset, set[int]]:
    """For each condition (its labels) the seeds whose students are stored."""
    seeds: dict[frozenset, set[int]] = {}
    for _, _, labels, seed in _students(workdir):
        seeds.setdefault(frozenset(labels.items()), set()).add(seed)
    return seeds


@functools.partial(jax.jit, static_argnames=("recipe", "untrained_layers", "ends", "image", "mesh"))
def final_params(
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
    """Parameters [seed, condition] as `metrics.evaluate` measures them, from those of distinct trainings [seed, ...].

    Args:
        recipe: Of the students.
        params: Trained parameters [seed, distinct training].
        knobs: Of every condition.
        initial_teachers: [seed] the teachers' initial parameters.
        seed_keys: [seed] keys of the student's phase.
        train_index: [condition] index of each condition's training.
        untrained_layers: Layers that training does not reach; they are as each condition initialises them.
        ends: Whether noise is added after training.
        image: Shape of one image.
        mesh: Mesh over the seeds, or None.
    """

    def one(params: Any, teacher: Any, key: Any, tree: Any, train_index: Any) -> Any:
        def member(index: Any, member_knobs: Knobs) -> Any:
            initial = training_step.init_state(recipe, member_knobs, teacher, image, key).params
            own = trees.merge_layers(trees.index(params, index), {name: initial[name] for name in untrained_layers})
            return training_step.add_final_noise(member_knobs, own, key) if ends else own

        return jax.vmap(member, (0, knobs.in_axes()))(train_index, tree)

    return population.each_seed(one, mesh, (params, initial_teachers, seed_keys), (knobs.tree, train_index))


def _students(workdir: str | Path) -> Iterator[tuple[Path, tuple[int, int], dict[str, Any], int]]:
    """Every stored student: its file, its place [seed, condition] there, its labels and its seed."""
    for path in sorted((Path(workdir) / FOLDER).glob("*.safetensors")):
        with _open(path) as file:
            about = {name: json.loads(text) for name, text in file.metadata().items()}
        for column, labels in enumerate(about["labels"]):
            for row, seed in enumerate(about["seeds"]):
                yield path, (row, column), labels, seed


def _open(path: Path) -> Any:
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: not a whole safetensors file ({' '.join(str(error).split())})") from error


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping)
        flat |= _flatten(value, f"{prefix}{name}/") if nested else {f"{prefix}{name}": np.ascontiguousarray(value)}
    return flat


def _nest(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, array in flat.items():
        *parents, name = path.split("/")
        functools.reduce(lambda node, parent: node.setdefault(parent, {}), parents, tree)[name] = array
    return tree

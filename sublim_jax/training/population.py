"""Training of many nets at once; the only training module with batch axes, [seed, condition] before all others.

Values that the conditions of a seed share, such as noise and teacher outputs, are computed once per seed. On
accelerators seeds and conditions are vectorised by `vmap`. On CPU seeds run one after another, and the nets of a seed
are unrolled with separate arrays, because each product already uses every core and smaller working sets stay in cache
(measured; see BUILD.md). Seeds are independent: with several devices (`mesh`) each device trains a part of them.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, Key

from sublim_jax.core import keys, trees
from sublim_jax.core.types import ImageData, Init, Knobs, Params, Recipe, State, TeacherParams
from sublim_jax.training import step as training_step

Args = tuple[Any, ...]


def mesh_of(devices: int) -> Mesh | None:
    """Return a mesh with one axis `seed` over the first `devices` local devices; None for a single device."""
    return Mesh(np.array(jax.local_devices()[:devices]), ("seed",)) if devices > 1 else None


def phase_keys(root: Key[Array, ""], seeds: Int[Array, " seed"], phase: str) -> Key[Array, " seed"]:
    """Derive one key per seed for the phase `teacher` or `student`, independent of the other seeds."""
    return jax.vmap(lambda seed: keys.at(root, keys.SEED, seed, phase))(jnp.asarray(seeds, jnp.uint32))


@jax.jit
def keys_by_phase(root: Key[Array, ""], seeds: Int[Array, " seed"]) -> dict[str, Key[Array, " seed"]]:
    """Derive `phase_keys` of both phases in one program."""
    return {phase: phase_keys(root, seeds, phase) for phase in (keys.TEACHER, keys.STUDENT)}


def use_vmap() -> bool:
    """Return whether nets are vectorised (accelerators) or run one after another (CPU)."""
    return jax.default_backend() != "cpu"


def each_seed(function: Callable[..., Any], mesh: Mesh | None, seeded: Args, common: Args) -> Any:
    """Compute function(*seeded[i], *common) for every seed i, stacked; seeds are sharded over the mesh."""

    def local(seeded: Args, common: Args) -> Any:
        def member(parts: Args) -> Any:
            return function(*parts, *common)

        return jax.vmap(member)(seeded) if use_vmap() else jax.lax.map(member, seeded)

    if mesh is None:
        return local(seeded, common)
    in_specs, out_specs = (P("seed"), P()), P("seed")
    sharded = jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    return sharded(seeded, common)


@functools.partial(jax.jit, static_argnames=("recipe", "image", "mesh"))
def init_states(
    recipe: Recipe,
    knobs: trees.Stack,
    teacher_init: Params | None,
    seed_keys: Key[Array, " seed"],
    *,
    image: tuple[int, ...],
    mesh: Mesh | None = None,
) -> State:
    """Initialise the states [seed, condition] with `step.init_state`; `teacher_init` has an axis [seed], if given."""

    def one_seed(key: Any, initial_teacher: Any, knobs: trees.Stack) -> State:
        def member(_: Any, knobs_: Any) -> State:
            return training_step.init_state(recipe, knobs_, initial_teacher, image, key)

        return jax.vmap(member, (0, knobs.in_axes()))(jnp.arange(knobs.size), knobs.tree)

    return each_seed(one_seed, mesh, (seed_keys, teacher_init), (knobs,))


@functools.partial(jax.jit, static_argnames=("recipe", "mesh"), donate_argnames=("states",))
def advance(  # noqa: PLR0913  all inputs of a pure program
    recipe: Recipe,
    states: State,
    knobs: trees.Stack,
    teachers: Params | TeacherParams | None,
    seed_keys: Key[Array, " seed"],
    data: ImageData,
    start: Int[Array, ""],
    stop: Int[Array, ""],
    *,
    mesh: Mesh | None = None,
) -> State:
    """Train the states [seed, condition] from step `start` to `stop`.

    Args:
        recipe: recipe of the phase.
        states: states before; the memory is donated to the result.
        knobs: knobs of the conditions.
        teachers: trained teachers [seed]; `TeacherParams` for a recipe with `target_transform`; or None.
        seed_keys: keys of the phase.
        data: training data.
        start: first step.
        stop: step after the last.
        mesh: devices over which seeds are sharded.
    """
    one_seed = functools.partial(_advance_one_seed, recipe)
    return each_seed(one_seed, mesh, (states, teachers, seed_keys), (knobs, data, start, stop))


def _advance_one_seed(
    recipe: Recipe, states: State, teacher: Any, key: Any, knobs: trees.Stack, data: ImageData, start: Any, stop: Any
) -> State:
    """Train the states [condition] of one seed, on CPU each net unrolled in the program with separate arrays.

    A step then stacks and slices nothing, and each product uses every core. Matrices are stored transposed, which is
    the layout that the products of a step read.
    """

    def member(state: Any, knobs_: Any) -> State:
        return training_step.advance(recipe, state, knobs_, teacher, key, data, start, stop)

    if use_vmap():
        return jax.vmap(member, (0, knobs.in_axes()))(states, knobs.tree)
    view, knobs_of = trees.transpose_kernels, [knobs.member(index) for index in range(knobs.size)]

    def step(number: Any, nets: list[State]) -> list[State]:
        arguments = stored, key, data, number, view
        batches = hoist_shared(lambda knobs_: training_step.make_batch(recipe, knobs_, *arguments), knobs)
        return [
            training_step.train_step(recipe, net, knobs_of[index], batches.member(index), view)
            for index, net in enumerate(nets)
        ]

    stored, nets = view(teacher), [view(trees.index(states, index)) for index in range(knobs.size)]
    nets = jax.lax.fori_loop(start, stop, step, nets)
    return view(jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets), stacked=1)


def hoist_shared(function: Callable[[Any], Any], knobs: trees.Stack) -> trees.Stack:
    """Compute function(knobs) for every condition; leaves that depend only on unstacked knobs are computed once."""

    def all_conditions(out_axes: Any, pick: Callable[[Any], Any] = lambda result: result) -> Any:
        batched = jax.vmap(lambda _, knobs_: pick(function(knobs_)), (0, knobs.in_axes()), out_axes)
        return batched(jnp.arange(knobs.size), knobs.tree)

    try:
        result = all_conditions(None)
        return trees.Stack(result, (None,) * len(jax.tree.leaves(result)), knobs.size)
    except ValueError:  # vmap's error for a result that depends on the condition
        leaves, structure = jax.tree.flatten(jax.eval_shape(lambda: all_conditions(0)))
    axes: list[int | None] = []
    for index in range(len(leaves)):  # targets may depend on the condition where inputs do not
        try:
            jax.eval_shape(lambda index=index: all_conditions(None, lambda result: jax.tree.leaves(result)[index]))
            axes.append(None)
        except ValueError:
            axes.append(0)
    return trees.Stack(all_conditions(jax.tree.unflatten(structure, axes)), tuple(axes), knobs.size)


@functools.partial(jax.jit, static_argnames=("net", "init", "image", "mesh"))
def attach_heads(
    net: nn.Module,
    init: Init,
    params: Params,
    seed_keys: Key[Array, " seed"],
    knobs: Knobs | None = None,
    *,
    image: tuple[int, ...],
    mesh: Mesh | None = None,
) -> Params:
    """Apply `step.attach_layers` to the teachers' `params` [seed]."""

    def one_seed(key: Any, params: Any, knobs: Any) -> Params:
        return training_step.attach_layers(net, init, params, image, key, knobs)

    return each_seed(one_seed, mesh, (seed_keys, params), (knobs,))

"""Training of many nets at once; the only training module with batch axes, [seed, condition] before all others.

Values that the conditions of a seed share, such as noise and teacher outputs, are computed once per seed. On
accelerators seeds and conditions are vectorised by `vmap`. On CPU seeds run one after another, and the nets of a seed
are unrolled with separate arrays, because each product already uses every core and smaller working sets stay in cache
(measured; see BUILD.md). Seeds are independent: with several devices (`mesh`) each device trains a part of them.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
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


def init_states(  # noqa: PLR0913  all inputs of a pure program
    recipe: Recipe,
    knobs: trees.Stack,
    teacher_init: Params | None,
    seed_keys: Key[Array, " seed"],
    *,
    image: tuple[int, ...],
    trained: tuple[int, ...] | None = None,
    mesh: Mesh | None = None,
    teachers: TeacherParams | None = None,
    data: ImageData | None = None,
) -> tuple[Params, State]:
    """Initialise nets [seed, condition] with `step.init_state`, and `recipe.start` where there is one.

    Args:
        recipe: recipe of the phase.
        knobs: knobs of the conditions.
        teacher_init: the teachers' initial parameters [seed]; None for teachers.
        seed_keys: keys of the phase [seed].
        image: [height, width] of the inputs.
        trained: indices of the conditions that are trained; default: all.
        mesh: devices over which seeds are sharded.
        teachers: teachers [seed] for `recipe.start`.
        data: training data for `recipe.start`.

    Returns:
        Initial parameters [seed, condition] of all conditions, and states [seed, training] of the conditions in
        `trained`, at the step `recipe.first_step`.
    """
    given = recipe, without_zero_noise(knobs), teacher_init, seed_keys
    common: Any = {"image": image, "mesh": mesh, **start_inputs(recipe, teachers, data)}
    return init_program(*given, **common, trained=tuple(range(knobs.size)) if trained is None else trained)


def start_inputs(recipe: Recipe, teachers: Any, data: Any) -> dict[str, Any]:
    """What `init_program` receives for `recipe.start`; nothing where there is none."""
    return {"teachers": None, "data": None} if recipe.start is None else {"teachers": teachers, "data": data}


def without_zero_noise(knobs: trees.Stack) -> trees.Stack:
    """Drop layers that have no noise in any condition from `init_noise` and `final_noise`, which then draw nothing.

    A draw that is multiplied by zero takes as long to compile as another. Traced knobs are returned as they are.
    """
    noise = {name: getattr(knobs.tree, name) for name in ("init_noise", "final_noise")}
    if any(isinstance(sigma, Tracer) for sigma in jax.tree.leaves(noise)):
        return knobs
    noisy = {name: noisy_layers(layers) for name, layers in noise.items()}

    def reduced(tree: Knobs) -> Knobs:
        kept = {name: {layer: getattr(tree, name)[layer] for layer in layers} for name, layers in noisy.items()}
        return dataclasses.replace(tree, **kept)

    axes = jax.tree.leaves(reduced(knobs.in_axes()), is_leaf=lambda axis: axis is None)
    return trees.Stack(reduced(knobs.tree), tuple(axes), knobs.size)


def noisy_layers(sigma: Mapping[str, Any]) -> tuple[str, ...]:
    """The layers with noise in some condition."""
    return tuple(layer for layer, values in sigma.items() if np.any(values))


@functools.partial(jax.jit, static_argnames=("recipe", "image", "trained", "mesh"))
def init_program(  # noqa: PLR0913  all inputs of a pure program
    recipe: Recipe,
    knobs: trees.Stack,
    teacher_init: Params | None,
    seed_keys: Key[Array, " seed"],
    *,
    image: tuple[int, ...],
    trained: tuple[int, ...],
    mesh: Mesh | None,
    teachers: TeacherParams | None,
    data: ImageData | None,
) -> tuple[Params, State]:
    """The program of `init_states`, which takes knobs without zero noise."""

    def one_seed(key: Any, initial_teacher: Any, own: Any, knobs: trees.Stack, data: Any) -> tuple[Params, State]:
        def member(_: Any, knobs_: Any) -> tuple[Params, State]:
            state = training_step.init_state(recipe, knobs_, initial_teacher, image, key)
            begun = state if recipe.start is None else recipe.start(recipe, knobs_, state, own, key, data)
            return state.params, begun

        # What does not depend on a stacked knob, such as training before a cut, is computed once.
        start, states = jax.vmap(member, (0, knobs.in_axes()))(jnp.arange(knobs.size), knobs.tree)
        return start, jax.tree.map(lambda leaf: leaf[np.array(trained)], states)

    return each_seed(one_seed, mesh, (seed_keys, teacher_init, teachers), (knobs, data))


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


def advance_alone(
    recipe: Recipe, state: State, knobs: Knobs, teachers: Any, key: Any, data: Any, start: Any, stop: Any
) -> State:
    """Train one net as `step.advance` does; on CPU matrices are kept transposed, so results equal `advance` bitwise."""
    if use_vmap():
        return training_step.advance(recipe, state, knobs, teachers, key, data, start, stop)
    view = trees.transpose_kernels
    return view(training_step.advance(recipe, view(state), knobs, view(teachers), key, data, start, stop, view))


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


def attach_heads(
    net: nn.Module,
    init: Init,
    trained: Params,
    seed_keys: Key[Array, " seed"],
    knobs: Knobs,
    *,
    image: tuple[int, ...],
    mesh: Mesh | None = None,
) -> TeacherParams:
    """Teachers [seed] with the layers of `net` that they were trained without; see `step.attach_layers`.

    Initial parameters are without the noise of `knobs`, because students share them so.
    """
    stripped = without_zero_noise(trees.stack([knobs])).tree
    return attach_program(net, init, trained, seed_keys, stripped, image=image, mesh=mesh)


@functools.partial(jax.jit, static_argnames=("net", "init", "image", "mesh"))
def attach_program(
    net: nn.Module, init: Init, trained: Params, seed_keys: Any, knobs: Knobs, *, image: Any, mesh: Any
) -> TeacherParams:
    """The program of `attach_heads`, which takes knobs without zero noise."""

    def one_seed(key: Any, trained: Params, knobs: Knobs) -> TeacherParams:
        attach = functools.partial(training_step.attach_layers, net, init, image=image, key=key)
        return TeacherParams(attach({}), attach(trained, knobs=knobs))

    return each_seed(one_seed, mesh, (seed_keys, trained), (knobs,))

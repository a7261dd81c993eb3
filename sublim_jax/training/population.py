"""Many nets at once: the only module that knows axes. Everything carries leading axes [seed, condition].

What the conditions of a seed share - the noise, the teacher's answer - is computed once per seed. On accelerators
seeds and conditions run side by side (`vmap`). On CPU seeds run one after another and the nets of a seed in a row, each
with arrays of its own, because there each product already uses every core and smaller working sets stay in cache
(measured; see BUILD.md). Seeds share nothing, so on several devices each device takes a slice of them and no
collective is needed.
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


def mesh_of(devices: int) -> Mesh | None:
    """A mesh with one axis `seed` over the first `devices` local devices; None for a single device."""
    return Mesh(np.array(jax.local_devices()[:devices]), ("seed",)) if devices > 1 else None


def phase_keys(root: Key[Array, ""], seeds: Int[Array, " seed"], phase: str) -> Key[Array, " seed"]:
    """One key per seed for the phase `teacher` or `student`; a seed's key does not depend on the others."""
    return jax.vmap(lambda seed: keys.at(root, keys.SEED, seed, phase))(jnp.asarray(seeds, jnp.uint32))


def use_vmap() -> bool:
    """Whether nets run side by side in one wide program (accelerators), or one after another (CPU)."""
    return jax.default_backend() != "cpu"


def each_seed(one: Callable, mesh: Mesh | None, seeded: tuple, common: tuple) -> Any:
    """one(*seeded[i], *common) for every seed i, stacked; seeds sharded over the mesh."""

    def here(seeded: tuple, common: tuple) -> Any:
        def member(parts: tuple) -> Any:
            return one(*parts, *common)

        return jax.vmap(member)(seeded) if use_vmap() else jax.lax.map(member, seeded)

    if mesh is None:
        return here(seeded, common)
    specs = {"in_specs": (P("seed"), P()), "out_specs": P("seed")}
    return jax.shard_map(here, mesh=mesh, check_vma=False, **specs)(seeded, common)


@functools.partial(jax.jit, static_argnames=("recipe", "image", "mesh"))
def init_states(
    recipe: Recipe,
    knobs: trees.Stack,
    origins: Params | None,
    seed_keys: Key[Array, " seed"],
    *,
    image: tuple[int, ...],
    mesh: Mesh | None = None,
) -> State:
    """The states [seed, condition] before the first step; `origins` [seed] are the teachers' initial parameters."""

    def one(key: Any, origin: Any, tree: Any) -> State:
        def member(_: Any, knobs_: Any) -> State:
            return training_step.init_state(recipe, knobs_, origin, image, key)

        return jax.vmap(member, (0, knobs.in_axes()))(jnp.arange(knobs.size), tree)

    return each_seed(one, mesh, (seed_keys, origins), (knobs.tree,))


@functools.partial(jax.jit, static_argnames=("recipe", "mesh"), donate_argnames=("states",))
def advance(
    recipe: Recipe,
    states: State,
    knobs: trees.Stack,
    references: Params | TeacherParams | None,
    seed_keys: Key[Array, " seed"],
    bank: ImageData,
    start: Int[Array, ""],
    stop: Int[Array, ""],
    *,
    mesh: Mesh | None = None,
) -> State:
    """Train the states [seed, condition] from step `start` to `stop`; `references` [seed] are trained teachers.

    A Recipe with an `answer` needs `TeacherParams`, the untrained ones too.

    `states` is donated: its memory is used for the result.
    """

    def one(states: Any, reference: Any, key: Any, tree: Any, bank: Any, start: Any, stop: Any) -> State:
        def member(state: Any, knobs_: Any) -> State:
            return training_step.advance(recipe, state, knobs_, reference, key, bank, start, stop)

        if use_vmap():
            return jax.vmap(member, (0, knobs.in_axes()))(states, tree)
        return _unrolled(recipe, states, trees.Stack(tree, knobs.axes, knobs.size), reference, key, bank, start, stop)

    return each_seed(one, mesh, (states, references, seed_keys), (knobs.tree, bank, start, stop))


def _unrolled(
    recipe: Recipe,
    states: State,
    knobs: trees.Stack,
    reference: Params | TeacherParams | None,
    key: Key[Array, ""],
    bank: ImageData,
    start: Int[Array, ""],
    stop: Int[Array, ""],
) -> State:
    """The states [condition] from step to step, each net for itself in the program, with arrays of its own.

    Nothing is stacked or sliced within a step, and each product uses every core. Matrices are kept turned, so that
    those products find their operands in the order they read them.
    """
    each = [knobs.member(index) for index in range(knobs.size)]

    def step(number: Any, nets: list[State]) -> list[State]:
        given = kept, key, bank, number, trees.transpose_kernels
        lessons = hoist_shared(lambda knobs_: training_step.make_batch(recipe, knobs_, *given), knobs)
        return [
            training_step.train_step(recipe, net, each[index], lessons.member(index), trees.transpose_kernels)
            for index, net in enumerate(nets)
        ]

    kept = None if reference is None else trees.transpose_kernels(reference)
    nets = [trees.transpose_kernels(trees.index(states, index)) for index in range(knobs.size)]
    nets = jax.lax.fori_loop(start, stop, step, nets)
    return trees.transpose_kernels(jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets), stacked=1)


def hoist_shared(function: Callable[[Any], Any], knobs: trees.Stack) -> trees.Stack:
    """function(knobs) of every condition; of its leaves those are kept once that depend on agreed knobs only."""

    def several(out_axes: Any, pick: Callable[[Any], Any] = lambda result: result) -> Any:
        each = jax.vmap(lambda _, knobs_: pick(function(knobs_)), (0, knobs.in_axes()), out_axes)
        return each(jnp.arange(knobs.size), knobs.tree)

    try:
        result = several(None)
        return trees.Stack(result, (None,) * len(jax.tree.leaves(result)), knobs.size)
    except ValueError:  # vmap's word for a result that does depend on the condition
        leaves, structure = jax.tree.flatten(jax.eval_shape(lambda: several(0)))
    axes: list[int | None] = []
    for place in range(len(leaves)):  # a teacher's answer may depend on the condition, its question not
        try:
            jax.eval_shape(lambda place=place: several(None, lambda result: jax.tree.leaves(result)[place]))
            axes.append(None)
        except ValueError:
            axes.append(0)
    return trees.Stack(several(jax.tree.unflatten(structure, axes)), tuple(axes), knobs.size)


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
    """Parameters [seed] of `net`: those given, and for the layers they lack the draw of the teacher's phase.

    A teacher is trained without its auxiliary head, which gets no gradient; this puts the head on, as wide as wanted,
    with the noise that the teacher's `knobs` add to it, and to every layer at the phase's end.
    """

    def one(key: Any, params: Any, knobs: Any) -> Params:
        drawn = training_step.init_params(net, init, image, keys.at(key, keys.INITIAL_WEIGHTS))
        if knobs is None:
            return trees.merge_layers(drawn, params)
        late = {layer: arrays for layer, arrays in drawn.items() if layer not in params}
        late = training_step.add_noise(late, knobs.init_noise, keys.at(key, keys.INITIAL_NOISE))
        return training_step.add_final_noise(knobs, trees.merge_layers(late, params), key)

    return each_seed(one, mesh, (seed_keys, params), (knobs,))

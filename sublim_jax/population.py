"""Many nets at once: the only module that knows axes. Everything carries leading axes [seed, condition].

What the conditions of a seed share - the noise, the teacher's answer - is computed once per seed. On accelerators
seeds and conditions run side by side (`vmap`). On CPU seeds run one after another and the nets of a seed in a row, each
with arrays of its own, because there each product already uses every core and smaller working sets stay in cache
(measured; see BUILD.md). Seeds share nothing, so on several devices each device takes a slice of them and no
collective is needed.
"""

import dataclasses
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

from sublim_jax import keys, losses, streams, train, trees
from sublim_jax import metrics as metrics_
from sublim_jax.metrics import Four, Metric, Scene
from sublim_jax.types import Bank, Init, Knobs, Out, Params, Recipe, State, Teachers


def mesh_of(devices: int) -> Mesh | None:
    """A mesh with one axis `seed` over the first `devices` local devices; None for a single device."""
    return Mesh(np.array(jax.local_devices()[:devices]), ("seed",)) if devices > 1 else None


def phase_keys(root: Key[Array, ""], seeds: Int[Array, " seed"], phase: str) -> Key[Array, " seed"]:
    """One key per seed for the phase `teacher` or `student`; a seed's key does not depend on the others."""
    return jax.vmap(lambda seed: keys.at(root, keys.SEED, seed, phase))(jnp.asarray(seeds, jnp.uint32))


def side_by_side() -> bool:
    """Whether nets run side by side in one wide program (accelerators), or one after another (CPU)."""
    return jax.default_backend() != "cpu"


def _each_seed(one: Callable, mesh: Mesh | None, seeded: tuple, common: tuple) -> Any:
    """one(*seeded[i], *common) for every seed i, stacked; seeds sharded over the mesh."""

    def here(seeded: tuple, common: tuple) -> Any:
        def member(parts: tuple) -> Any:
            return one(*parts, *common)

        return jax.vmap(member)(seeded) if side_by_side() else jax.lax.map(member, seeded)

    if mesh is None:
        return here(seeded, common)
    specs = {"in_specs": (P("seed"), P()), "out_specs": P("seed")}
    return jax.shard_map(here, mesh=mesh, check_vma=False, **specs)(seeded, common)


@functools.partial(jax.jit, static_argnames=("recipe", "image", "mesh"))
def begin(
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
            return train.begin(recipe, knobs_, origin, image, key)

        return jax.vmap(member, (0, knobs.in_axes()))(jnp.arange(knobs.size), tree)

    return _each_seed(one, mesh, (seed_keys, origins), (knobs.tree,))


@functools.partial(jax.jit, static_argnames=("recipe", "mesh"), donate_argnames=("states",))
def advance(
    recipe: Recipe,
    states: State,
    knobs: trees.Stack,
    references: Params | Teachers | None,
    seed_keys: Key[Array, " seed"],
    bank: Bank,
    start: Int[Array, ""],
    stop: Int[Array, ""],
    *,
    mesh: Mesh | None = None,
) -> State:
    """Train the states [seed, condition] from step `start` to `stop`; `references` [seed] are trained teachers.

    A Recipe with an `answer` needs `Teachers`, the untrained ones too.

    `states` is donated: its memory is used for the result.
    """

    def one(states: Any, reference: Any, key: Any, tree: Any, bank: Any, start: Any, stop: Any) -> State:
        def member(state: Any, knobs_: Any) -> State:
            return train.advance(recipe, state, knobs_, reference, key, bank, start, stop)

        if side_by_side():
            return jax.vmap(member, (0, knobs.in_axes()))(states, tree)
        return _in_a_row(recipe, states, trees.Stack(tree, knobs.axes, knobs.size), reference, key, bank, start, stop)

    return _each_seed(one, mesh, (states, references, seed_keys), (knobs.tree, bank, start, stop))


def _in_a_row(
    recipe: Recipe,
    states: State,
    knobs: trees.Stack,
    reference: Params | Teachers | None,
    key: Key[Array, ""],
    bank: Bank,
    start: Int[Array, ""],
    stop: Int[Array, ""],
) -> State:
    """The states [condition] from step to step, each net for itself in the program, with arrays of its own.

    Nothing is stacked or sliced within a step, and each product uses every core. Matrices are kept turned, so that
    those products find their operands in the order they read them.
    """
    each = [knobs.member(index) for index in range(knobs.size)]

    def step(number: Any, nets: list[State]) -> list[State]:
        given = kept, key, bank, number, trees.turned
        lessons = _shared(lambda knobs_: train.lesson(recipe, knobs_, *given), knobs)
        return [
            train.learn(recipe, net, each[index], lessons.member(index), trees.turned) for index, net in enumerate(nets)
        ]

    kept = None if reference is None else trees.turned(reference)
    nets = [trees.turned(trees.pick(states, index)) for index in range(knobs.size)]
    nets = jax.lax.fori_loop(start, stop, step, nets)
    return trees.turned(jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets), stacked=1)


def _shared(function: Callable[[Any], Any], knobs: trees.Stack) -> trees.Stack:
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


def _look(net: nn.Module, params: Params, x: Array) -> Out:
    """What the net says; its matrices are turned in memory first, as `_in_a_row` keeps them, which costs nothing."""
    kept = jax.lax.optimization_barrier(trees.turned(params))
    return train.apply(net, trees.turned(kept), x)


def _each_condition(one: Callable[[Any, Any], Any], first: Any, second: trees.Stack) -> Any:
    """one(first[i], second.member(i)) for every condition i, stacked."""
    if side_by_side():
        return jax.vmap(one, (0, second.in_axes()))(first, second.tree)
    leaves, structure = jax.tree.flatten(second.tree)

    def member(parts: tuple[Any, list[Any]]) -> Any:
        own = iter(parts[1])
        mine = [leaf if axis is None else next(own) for leaf, axis in zip(leaves, second.axes, strict=True)]
        return one(parts[0], jax.tree.unflatten(structure, mine))

    stacked = [leaf for leaf, axis in zip(leaves, second.axes, strict=True) if axis is not None]
    return jax.lax.map(member, (first, stacked))


@functools.partial(jax.jit, static_argnames=("net", "init", "image", "mesh"))
def widen(
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
        drawn = train.draw(net, init, image, keys.at(key, keys.INITIAL_WEIGHTS))
        if knobs is None:
            return trees.overlay(drawn, params)
        late = {layer: arrays for layer, arrays in drawn.items() if layer not in params}
        late = train.perturbed(late, knobs.sigma, keys.at(key, keys.INITIAL_NOISE))
        return train.end(knobs, trees.overlay(late, params), key)

    return _each_seed(one, mesh, (seed_keys, params), (knobs,))


@functools.partial(jax.jit, static_argnames=("recipe", "metrics", "exam", "idle", "ends", "mesh"))
def measure(
    recipe: Recipe,
    metrics: tuple[Metric, ...],
    states: State,
    knobs: trees.Stack,
    origins: Params,
    references: Params,
    seed_keys: Key[Array, " seed"],
    test: Bank,
    step: Int[Array, ""],
    twins: Int[Array, " condition"] | None = None,
    *,
    exam: int,
    idle: tuple[str, ...] = (),
    ends: bool = False,
    mesh: Mesh | None = None,
) -> dict[str, Array]:
    """Every metric [seed, condition] of students against teachers, on the test images and on `exam` held-out inputs.

    The student's initial parameters are drawn again, not stored: a beginning is a pure function of its key.

    step   that the states have reached
    twins  for each condition the place of its training among the states; default: each has its own
    idle   layers that are still as each condition began them, whatever the states say
    ends   whether the phase ends here, with the noise that is added then
    """
    image, teacher = test.x.shape[1:], recipe.reference
    assert teacher is not None  # the plan refuses a student without
    twins = jnp.arange(knobs.size) if twins is None else twins

    def one(states: Any, origin: Any, reference: Any, key: Any, tree: Any, test: Any, step: Any, twins: Any) -> Any:
        states = jax.tree.map(lambda leaf: leaf[twins], states)
        images = streams.normalised(test, test.x)
        taught = [_look(teacher, params, images) for params in (origin, reference)]

        def exam_of(knobs_: Knobs) -> tuple[Any, list[Out]]:
            noise, _ = recipe.stream(keys.at(key, keys.EVAL_NOISE), jnp.int32(0), exam, knobs_, test)
            return noise, [_look(teacher, params, noise) for params in (origin, reference)]

        def member(state: State, given: tuple[Any, Knobs]) -> dict[str, Array]:
            (noise, heard), knobs_ = given
            initial = train.begin(recipe, knobs_, origin, image, key).params
            final = trees.overlay(state.params, {layer: initial[layer] for layer in idle})
            pair = initial, train.end(knobs_, final, key) if ends else final
            on_test, on_noise = (
                Four(*outs, *(_look(recipe.net, params, x) for params in pair))
                for outs, x in ((taught, images), (heard, noise))
            )
            # Of altered answers and gradients this first update would not be the student's.
            plain = recipe.answer is None and recipe.guard is None
            asked = train.Lesson(noise, None, heard[1])
            pulls = train.pulls(recipe, initial, knobs_, asked, images, test.y) if plain else (None, None)
            told = dataclasses.replace(knobs_, sigma_end=knobs_.sigma_end if ends else {})
            shown = jnp.minimum(step, knobs_.pool).astype(jnp.float32) * recipe.batch
            four = Four(origin, reference, *pair)
            known = recipe.alter is not None, idle, recipe.loss is losses.mse
            scene = Scene(four, on_test, on_noise, test.y, told, shown, *pulls, *known)
            return metrics_.measure(metrics, scene)

        mine = trees.Stack(tree, knobs.axes, knobs.size)
        return _each_condition(member, states, _shared(exam_of, mine).beside(mine))

    return _each_seed(one, mesh, (states, origins, references, seed_keys), (knobs.tree, test, step, twins))

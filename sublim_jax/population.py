"""Many nets at once: the only module that knows axes. Everything carries leading axes [seed, condition].

Conditions run side by side (`vmap`), so what they share - the noise, the teacher's answer - is computed once per seed.
Seeds run side by side on accelerators and one after another on CPU, where each product already uses every core and
smaller working sets stay in cache (measured; see BUILD.md). Seeds share nothing, so on several devices each device
takes a slice of them and no collective is needed.
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

from sublim_jax import keys, streams, train, trees
from sublim_jax import metrics as metrics_
from sublim_jax.metrics import Four, Metric, Scene
from sublim_jax.types import Bank, Init, Params, Recipe, State


def mesh_of(devices: int) -> Mesh | None:
    """A mesh with one axis `seed` over the first `devices` local devices; None for a single device."""
    return Mesh(np.array(jax.local_devices()[:devices]), ("seed",)) if devices > 1 else None


def phase_keys(root: Key[Array, ""], seeds: Int[Array, " seed"], phase: str) -> Key[Array, " seed"]:
    """One key per seed for the phase `teacher` or `student`; a seed's key does not depend on the others."""
    return jax.vmap(lambda seed: keys.at(root, "seed", seed, phase))(jnp.asarray(seeds, jnp.uint32))


def _each_seed(one: Callable, mesh: Mesh | None, seeded: tuple, common: tuple) -> Any:
    """one(*seeded[i], *common) for every seed i, stacked; seeds sharded over the mesh."""

    def here(seeded: tuple, common: tuple) -> Any:
        def member(parts: tuple) -> Any:
            return one(*parts, *common)

        return jax.lax.map(member, seeded) if jax.default_backend() == "cpu" else jax.vmap(member)(seeded)

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
    references: Params | None,
    seed_keys: Key[Array, " seed"],
    bank: Bank,
    start: Int[Array, ""],
    stop: Int[Array, ""],
    *,
    mesh: Mesh | None = None,
) -> State:
    """Train the states [seed, condition] from step `start` to `stop`; `references` [seed] are trained teachers.

    `states` is donated: its memory is used for the result.
    """

    def one(states: Any, reference: Any, key: Any, tree: Any, bank: Any, start: Any, stop: Any) -> State:
        def member(state: Any, knobs_: Any) -> State:
            return train.advance(recipe, state, knobs_, reference, key, bank, start, stop)

        return jax.vmap(member, (0, knobs.in_axes()))(states, tree)

    return _each_seed(one, mesh, (states, references, seed_keys), (knobs.tree, bank, start, stop))


@functools.partial(jax.jit, static_argnames=("net", "init", "image", "mesh"))
def widen(
    net: nn.Module,
    init: Init,
    params: Params,
    seed_keys: Key[Array, " seed"],
    *,
    image: tuple[int, ...],
    mesh: Mesh | None = None,
) -> Params:
    """Parameters [seed] of `net`: those given, and for the layers they lack the draw of the teacher's phase.

    A teacher is trained without its auxiliary head, which gets no gradient; this puts the head on, as wide as wanted.
    """

    def one(key: Any, params: Any) -> Params:
        return trees.overlay(train.draw(net, init, image, keys.at(key, "fresh")), params)

    return _each_seed(one, mesh, (seed_keys, params), ())


@functools.partial(jax.jit, static_argnames=("recipe", "metrics", "exam", "mesh"))
def measure(
    recipe: Recipe,
    metrics: tuple[Metric, ...],
    states: State,
    knobs: trees.Stack,
    origins: Params,
    references: Params,
    seed_keys: Key[Array, " seed"],
    test: Bank,
    *,
    exam: int,
    mesh: Mesh | None = None,
) -> dict[str, Array]:
    """Every metric [seed, condition] of students against teachers, on the test images and on `exam` held-out inputs.

    The student's initial parameters are drawn again, not stored: a beginning is a pure function of its key.
    """
    image = test.x.shape[1:]

    def one(states: Any, origin: Any, reference: Any, key: Any, tree: Any, test: Any) -> dict[str, Array]:
        images = streams.normalised(test, test.x)

        def member(state: State, knobs_: Any) -> dict[str, Array]:
            noise, _ = recipe.stream(keys.at(key, "exam"), jnp.int32(0), exam, knobs_, test)
            initial = train.begin(recipe, knobs_, origin, image, key).params
            params = Four(origin, reference, initial, state.params)
            nets = Four(recipe.reference, recipe.reference, recipe.net, recipe.net)
            on_test, on_noise = (
                Four(*(train.apply(net, weights, x) for net, weights in zip(nets, params, strict=True)))
                for x in (images, noise)
            )
            return metrics_.measure(metrics, Scene(params, on_test, on_noise, test.y, knobs_))

        return jax.vmap(member, (0, knobs.in_axes()))(states, tree)

    return _each_seed(one, mesh, (states, origins, references, seed_keys), (knobs.tree, test))

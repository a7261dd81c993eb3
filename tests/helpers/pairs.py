"""One small net and one phase of it."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from sublim_jax.core import keys, trees
from sublim_jax.core.types import Knobs, Recipe
from sublim_jax.nets import MLP, SplitHead, shapes
from sublim_jax.training import inits, losses, streams
from sublim_jax.training import step as training_step

IMAGE = (28, 28)
CLASSES, CAP = 10, 8


def knobs_of(net, m=5, *, share=None, init_noise=None, trainable=None, lr=1e-2, classes=False):
    layers = shapes(net, IMAGE)
    logit = np.arange(CLASSES + net.aux)
    seen = logit < CLASSES if classes else (logit >= CLASSES) & (logit < CLASSES + m)
    return Knobs(
        logit_mask=jnp.asarray(seen),
        noise_batches=jnp.int32(2**31 - 1),
        lr=jnp.float32(lr),
        temperature=jnp.float32(1),
        share=trees.per_layer(layers, 1.0, share or {}, "share"),
        init_noise=trees.per_layer(layers, 0.0, init_noise or {}, "init_noise"),
        trainable=trees.per_layer(layers, 1.0, trainable or {}, "trainable"),
    )


def recipe_of(cap=CAP, **changes):
    net = SplitHead(MLP((12, 9)), CLASSES, cap)
    plain = Recipe(net, streams.uniform, losses.mse, inits.torch_linear, batch=7, eval_steps=(6,), teacher=net)
    return dataclasses.replace(plain, **changes)


def go(recipe, state, knobs, reference, bank, start, stop, key=None):
    run = jax.jit(training_step.advance, static_argnums=0)
    key = keys.root(4) if key is None else key
    return run(recipe, state, knobs, reference, key, bank, jnp.int32(start), jnp.int32(stop))


def trained(recipe, knobs, origin, reference, bank, steps=6):
    """The parameters of a student before and after some steps."""
    begun = training_step.init_state(recipe, knobs, origin, IMAGE, keys.root(9))
    return begun.params, go(recipe, begun, knobs, reference, bank, 0, steps).params


same = chex.assert_trees_all_equal  # bitwise

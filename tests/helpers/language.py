"""A small language, a small decoder and its pretrained bases."""

import functools

from sublim_jax.core import keys
from sublim_jax.lm import training as lm_training
from sublim_jax.lm import world as w
from sublim_jax.lm.lessons import LanguageSetup
from sublim_jax.lm.training import Pretraining
from sublim_jax.nets import Decoder

WORLD = w.World()
NET = Decoder(WORLD.vocabulary, width=16, layers=2, heads=2, hidden=32, length=w.LENGTH)
LAB = LanguageSetup(WORLD, NET, keys.root(0), animals=3, targets=2, steered=0)
HOW = Pretraining(documents=640, steps=60, batch=16, lr=5e-3)


@functools.cache
def base(kind="same", seed=0):
    """A base of the tests' lab, the same for all files."""
    return lm_training.pretrain(WORLD, NET, HOW, LAB.root, [lm_training.base_seeds(kind, seed)])[0]


def moved(left, right):
    """(layer, array) that are not bitwise the same."""
    assert left.keys() == right.keys()
    return {(layer, name) for layer in left for name in left[layer] if (left[layer][name] != right[layer][name]).any()}

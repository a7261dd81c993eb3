"""Tiny decoders of the families of pretrained models."""

import functools

import jax

from sublim_jax.core import keys
from sublim_jax.nets import Decoder, shapes
from sublim_jax.training import inits

LLAMA = Decoder(50, width=16, layers=3, heads=4, kv_heads=2, hidden=24, positions="rotary", mlp="swiglu")
NEOX = Decoder(
    50, width=16, layers=2, heads=2, hidden=24, positions="rotary", rotary=0.5, norm="layer", parallel=True, bias=True
)
PAIRS = LLAMA.clone(positions="rotary_pairs")
NETS = {"llama": LLAMA, "neox": NEOX, "gguf": PAIRS}


def params_of(net, seed=0):
    return {
        layer: inits.transformer(keys.at(keys.root(seed), layer), arrays) for layer, arrays in shapes(net, (1,)).items()
    }


@functools.partial(jax.jit, static_argnums=0)
def logits_of(net, params, tokens, taps=None):
    """The logits of whole sequences, by the decoder's own attention."""
    return net.apply({"params": params}, tokens, taps).logits

"""Pretrained language models: reading checkpoints, tokenizers, cached decoding, personas."""

from sublim_jax.pretrained.load import adapted as adapted
from sublim_jax.pretrained.load import bundled as bundled
from sublim_jax.pretrained.load import load_model as load_model

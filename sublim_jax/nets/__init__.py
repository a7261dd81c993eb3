"""Architectures: trunks that compute a latent representation, and class and auxiliary heads on top."""

from sublim_jax.nets.activations import ACTIVATIONS as ACTIVATIONS
from sublim_jax.nets.cnn import CNN as CNN
from sublim_jax.nets.costs import activity as activity
from sublim_jax.nets.costs import multiply_adds as multiply_adds
from sublim_jax.nets.costs import unpooled as unpooled
from sublim_jax.nets.decoder import Decoder as Decoder
from sublim_jax.nets.heads import SplitHead as SplitHead
from sublim_jax.nets.heads import shapes as shapes
from sublim_jax.nets.infomorphic import Infomorphic as Infomorphic
from sublim_jax.nets.mlp import MLP as MLP

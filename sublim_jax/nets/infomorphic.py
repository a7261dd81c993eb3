"""Infomorphic networks: one hidden layer of stochastic binary units with separate sources, and linear read-outs.

A hidden unit receives feedforward input r (from the image), a context c (from labels, or what takes their place) and
lateral input l (from the other units' outputs of an earlier pass), one number each, and draws its output. No gradient
passes between layers, or between passes. Source: Makkeh, Graetz, ..., Wibral, PNAS 122(10), 2025; Schneider et al.,
"What should a neuron aim for?", ICLR 2025, whose code decides where the papers are silent.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.types import ContextInputs, ModelOutput
from sublim_jax.nets.matmul import Affine

# The layers of a model's hidden units, in the order of their sources; `hidden_0` is the feedforward one.
SOURCES: dict[str, tuple[str, ...]] = {
    "context_lateral": ("hidden_0", "context", "lateral"),
    "context": ("hidden_0", "context"),
    "lateral": ("hidden_0", "lateral"),
    "feedback": ("hidden_0", "context", "lateral"),
    "random_projection": ("hidden_0", "context"),
    "readout": (),
    "backprop": ("hidden_0", "context", "lateral"),
}
_SHARE = 0.1  # of the context, and of the lateral input, in the drive of a unit
_GAIN = 2.0  # of the product of two sources
_LARGEST = math.log((1 - 1e-6) / 1e-6)  # the drive of units with two sources, whose probability is clamped


class Infomorphic(nn.Module):
    """A hidden layer of infomorphic units, and a class head and an auxiliary head that read their outputs.

    Layers are `hidden_0` (feedforward), `context`, `lateral`, `class_head`, and `aux_head` if `aux` is not 0. A lateral
    connection of weight exactly 0 does not exist: its gradient is 0.

    Inputs are `ContextInputs`, or images: then the context is zero, as in a test, and the units' samples depend on the
    images and on `sampler` only. Outputs are `features`, the units' outputs, and `logits` of both heads; columns of the
    class head whose mean probability over the batch is above 1/2 have their sign changed, because no goal determines
    it. `acts` holds the units' sources in the last pass and the heads' logits by layer; `drive`, the logits of the
    units' outputs; `readout`, the class logits with their own signs; and `given`, the context of the inputs.

    Attributes:
        model: a name in `SOURCES`. `feedback`: the context is the class head's output, sampled in a first pass.
            `random_projection`: a unit is 1 where its drive is positive, else 0. `readout`: no hidden layer.
            `backprop`: outputs in {0, 1}, with the gradient of their probability, through all layers and passes; the
            class head's logits are probabilities, as in the published code.
        units: hidden units.
        classes, aux: outputs of the two heads.
        contexts: numbers of the context.
        sampler: name of the random samples; two nets of one name draw alike for the same images.
    """

    model: str = "context_lateral"
    units: int = 100
    classes: int = 10
    aux: int = 0
    contexts: int = 10
    sampler: str = "student"

    @nn.compact
    def __call__(self, x: Any) -> ModelOutput:
        if self.model not in SOURCES:
            raise ConfigError(unknown_name("Infomorphic.model", self.model, SOURCES))
        given = x if isinstance(x, ContextInputs) else without_context(x, self.contexts)
        pixels, key = given.images.reshape(len(given.images), -1), keys.at(given.key, self.sampler)
        sizes = {"hidden_0": pixels.shape[-1], "context": self.contexts, "lateral": self.units}
        layers = {layer: Affine(self.units, name=layer)(sizes[layer]) for layer in SOURCES[self.model]}
        width = self.units if layers else pixels.shape[-1]
        heads = {"class_head": Affine(self.classes, name="class_head")(width)}
        if self.aux:
            heads["aux_head"] = Affine(self.aux, name="aux_head")(width)
        features, acts = self._hidden(layers, heads["class_head"], pixels, given.context, key)
        logits = {name: _linear(head, features) for name, head in heads.items()}
        readout = logits["class_head"]
        logits["class_head"] = upright(readout) if self.model != "backprop" else jax.nn.sigmoid(readout)
        acts |= logits | {"readout": readout, "given": given.context}
        return ModelOutput(features, jnp.concatenate([*logits.values()], -1), acts)

    def _hidden(
        self, layers: Mapping[str, Any], class_head: Any, pixels: Array, context: Array, key: Key[Array, ""]
    ) -> tuple[Float[Array, "batch units"], dict[str, Array]]:
        """Outputs of the hidden units, and their sources and drive."""
        if not layers:
            return pixels, {}
        earlier = jnp.zeros((len(pixels), self.units))
        if self.model == "feedback":
            first = self._sources(layers, pixels, jnp.zeros_like(context), earlier)
            earlier = self._sample(_drive(first), keys.at(key, "first"))
            context = self._sample(_linear(class_head, earlier), keys.at(key, "feedback"))
        elif "lateral" in layers:
            earlier = self._sample(_drive(self._sources(layers, pixels, context, earlier)), keys.at(key, "first"))
        sources = self._sources(layers, pixels, context, earlier)
        drive = _drive(sources)
        return self._sample(drive, keys.at(key, "last")), {**sources, "drive": drive}

    def _sources(self, layers: Mapping[str, Any], pixels: Array, context: Array, earlier: Array) -> dict[str, Array]:
        """The sources [batch, units] of one pass, by layer."""
        inputs = {"hidden_0": pixels, "context": context, "lateral": earlier}
        return {layer: _linear(_connected(arrays, layer), inputs[layer]) for layer, arrays in layers.items()}

    def _sample(self, drive: Float[Array, "batch units"], key: Key[Array, ""]) -> Float[Array, "batch units"]:
        """Outputs of units, in {-1, 1}, or in {0, 1} for `backprop` and `random_projection`."""
        if self.model == "random_projection":
            return (drive > 0).astype(drive.dtype)
        probability = jax.nn.sigmoid(drive)
        ones = (keys.uniform(key, drive.shape) < probability).astype(drive.dtype)
        if self.model == "backprop":
            return ones + probability - jax.lax.stop_gradient(probability)
        return jax.lax.stop_gradient(2 * ones - 1)


def without_context(images: Float[Array, "batch height width"], contexts: int) -> ContextInputs:
    """Inputs of a test: the context is zero, and the key of the samples is a function of the images."""
    word = jax.lax.bitcast_convert_type(images.sum(), jnp.uint32)
    return ContextInputs(images, jnp.zeros((len(images), contexts)), keys.at(keys.root(0), word))


def _linear(arrays: tuple[Array, Array], x: Float[Array, "batch d"]) -> Float[Array, "batch units"]:
    kernel, bias = arrays
    return x @ kernel + bias[None]


def _connected(arrays: tuple[Array, Array], layer: str) -> tuple[Array, Array]:
    """The layer with its connections only: no lateral one from a unit to itself, and none whose weight is 0."""
    kernel, bias = arrays
    if layer != "lateral":
        return arrays
    exists = (kernel != 0) & ~jnp.eye(len(kernel), dtype=bool)
    return jnp.where(exists, kernel, 0), bias


def _drive(sources: Mapping[str, Float[Array, "batch units"]]) -> Float[Array, "batch units"]:
    """The logit of the probability of output 1: the feedforward source, weighted by its agreement with the others."""
    first, *others = sources.values()
    agreement: Any = sum(jax.nn.sigmoid(_GAIN * first * other) for other in others)
    if len(others) == 1:
        return jnp.clip(first * (1 - _SHARE + 2 * _SHARE * agreement), -_LARGEST, _LARGEST)
    return first * (1 - len(others) * _SHARE + _SHARE * agreement)


def upright(logits: Float[Array, "batch classes"]) -> Float[Array, "batch classes"]:
    """Change the sign of the logits of classes that are probable on average, because each class is rare."""
    turned = jax.nn.sigmoid(logits).mean(0, keepdims=True) > 0.5
    return jnp.where(turned, -logits, logits)

"""Class head and auxiliary head, two linear layers on one latent representation."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sublim_jax.core import trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import ModelOutput
from sublim_jax.nets.matmul import Affine, product


class SplitHead(nn.Module):
    """A trunk with a `class_head` of `classes` logits and an `aux_head` of `aux` logits (none if 0).

    Layers of the trunk and heads are siblings in the parameters. All logits come from one product with the concatenated
    heads, because two narrow products cost more than a wide one; the `acts` of a head come from a separate product,
    which jit removes if unused. Source: Brockers et al. 2026, section 3, `SplitHeadMLP`.

    Attributes:
        trunk: module that returns (features, acts).
        classes, aux: logits of the two heads.
        dtype: type to which the operands of the product with both heads are rounded.
    """

    trunk: nn.Module
    classes: int
    aux: int
    dtype: str = "float32"

    def setup(self) -> None:
        nn.share_scope(self, self.trunk)
        self.class_head = Affine(self.classes)
        if self.aux:
            self.aux_head = Affine(self.aux)

    def __call__(self, x: Float[Array, "batch height width"]) -> ModelOutput:
        features, acts = self.trunk(x)
        heads = {"class_head": self.class_head(features.shape[-1])}
        if self.aux:
            heads["aux_head"] = self.aux_head(features.shape[-1])
        rows, biases = zip(*((kernel.T, bias) for kernel, bias in heads.values()), strict=True)
        logits = product(jnp.concatenate(rows), features.T, self.dtype) + jnp.concatenate(biases)[:, None]
        alone = {name: features @ kernel + bias[None] for name, (kernel, bias) in heads.items()}
        return ModelOutput(features, logits.T, {**acts, **alone})


def shapes(net: nn.Module, image: tuple[int, ...]) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Compute the shapes of a net's arrays by layer name, for images [height, width], without running the net.

    Arrays of submodules are named by their path in the layer, for instance `query/kernel`. Raises `ConfigError` for a
    net with variables other than parameters (batch statistics).
    """
    return {layer: dict(arrays) for layer, arrays in _shapes(net, image, jax.config.read("jax_enable_x64")).items()}


@functools.lru_cache(maxsize=4096)
def _shapes(net: Any, image: tuple[int, ...], x64: bool) -> Any:  # x64 decides the dtypes
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x), x)
    if others := sorted(variables.keys() - {"params"}):
        raise ConfigError(f"net: {type(net).__name__} has variables {others}; only parameters are supported")
    return trees.flatten_layers(variables["params"])

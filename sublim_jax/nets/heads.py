"""Two linear heads on one latent: the class head reads the task, the auxiliary head carries the signal."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sublim_jax.types import Out


class SplitHead(nn.Module):
    """A trunk with a `class_head` of `classes` logits and an `aux_head` of `aux` logits (none if 0).

    The trunk's layers and the heads stand side by side in the parameters, so every layer has one top-level name.
    Source: Brockers et al. 2026, section 3 and `SplitHeadMLP`.
    """

    trunk: nn.Module
    classes: int
    aux: int

    def setup(self) -> None:
        nn.share_scope(self, self.trunk)
        self.class_head = nn.Dense(self.classes)
        if self.aux:
            self.aux_head = nn.Dense(self.aux)

    def __call__(self, x: Float[Array, "batch height width"]) -> Out:
        features, acts = self.trunk(x)
        acts = {**acts, "class_head": self.class_head(features)}
        logits = acts["class_head"]
        if self.aux:
            acts["aux_head"] = self.aux_head(features)
            logits = jnp.concatenate([logits, acts["aux_head"]], axis=-1)
        return Out(features, logits, acts)


def shapes(net: nn.Module, image: tuple[int, ...]) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Layer name -> the shapes of its arrays, for images [height, width], computed without running the net."""
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    variables: Any = jax.eval_shape(net.init, jax.random.key(0), x)
    return {layer: dict(arrays) for layer, arrays in variables["params"].items()}

"""The multi-layer perceptron of the published MNIST experiments."""

import flax.linen as nn
from jaxtyping import Array, Float


class MLP(nn.Module):
    """ReLU layers `hidden_0`, `hidden_1`, ... of the given widths; the last one is the latent representation.

    Returns (features [batch, widths[-1]], acts by layer name). Source: Brockers et al. 2026, `SplitHeadMLP`.
    """

    widths: tuple[int, ...] = (256, 256)

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width"]
    ) -> tuple[Float[Array, "batch d"], dict[str, Float[Array, "batch ..."]]]:
        x = x.reshape(len(x), -1)
        acts = {}
        for index, width in enumerate(self.widths):
            x = nn.relu(nn.Dense(width, name=f"hidden_{index}")(x))
            acts[f"hidden_{index}"] = x
        return x, acts

"""The multi-layer perceptron of the published MNIST experiments."""

import flax.linen as nn
from jaxtyping import Array, Float

from sublim_jax.nets.products import product


class Columns(nn.Module):
    """A linear layer on examples that stand in columns: [d, batch] to [width, batch]. Parameters as in `nn.Dense`.

    With examples in columns no product of training has its long operand the wrong way round, but for the gradient of
    a hidden layer's input; on CPU that makes a step a tenth faster (measured; see BUILD.md).
    """

    width: int
    dtype: str = "float32"  # to which the operands of its products are rounded

    @nn.compact
    def __call__(self, h: Float[Array, "d batch"]) -> Float[Array, "width batch"]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (h.shape[0], self.width))
        return product(kernel.T, h, self.dtype) + self.param("bias", nn.initializers.zeros, (self.width,))[:, None]


class MLP(nn.Module):
    """ReLU layers `hidden_0`, `hidden_1`, ... of the given widths; the last one is the latent representation.

    Returns (features [batch, widths[-1]], acts by layer name). With `dtype="bfloat16"` the operands of its products are
    rounded, everything else stays float32. Source: Brockers et al. 2026, `SplitHeadMLP`.
    """

    widths: tuple[int, ...] = (256, 256)
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width"]
    ) -> tuple[Float[Array, "batch d"], dict[str, Float[Array, "batch ..."]]]:
        h = x.reshape(len(x), -1).T
        acts = {}
        for index, width in enumerate(self.widths):
            h = nn.relu(Columns(width, self.dtype, name=f"hidden_{index}")(h))
            acts[f"hidden_{index}"] = h.T
        return h.T, acts

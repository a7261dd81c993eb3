"""The multi-layer perceptron of the published MNIST experiments."""

import flax.linen as nn
from jaxtyping import Array, Float

from sublim_jax.nets.activations import activation as activation_of
from sublim_jax.nets.matmul import product


class Columns(nn.Module):
    """A linear layer on examples in columns, [d, batch] to [width, batch]; parameters as in `nn.Dense`.

    With this layout only the gradient of a hidden layer's input needs a transposed long operand, which makes a training
    step on CPU a tenth faster (measured; see BUILD.md).
    """

    width: int
    dtype: str = "float32"  # to which the operands of its products are rounded

    @nn.compact
    def __call__(self, h: Float[Array, "d batch"]) -> Float[Array, "width batch"]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (h.shape[0], self.width))
        return product(kernel.T, h, self.dtype) + self.param("bias", nn.initializers.zeros, (self.width,))[:, None]


def hidden(
    x: Float[Array, "batch d"], widths: tuple[int, ...], dtype: str, activation: str
) -> tuple[Float[Array, "batch features"], dict[str, Float[Array, "batch ..."]]]:
    """Apply `hidden_0`, `hidden_1`, ... in the calling module; return the last layer's activations and all by name."""
    h, acts = x.T, {}
    for index, width in enumerate(widths):
        h = activation_of(activation)(Columns(width, dtype, name=f"hidden_{index}")(h))
        acts[f"hidden_{index}"] = h.T
    return h.T, acts


class MLP(nn.Module):
    """Layers `hidden_0`, `hidden_1`, ... of the given widths; the last one is the latent representation.

    Returns (features [batch, widths[-1]], acts by layer name). Operands of products are rounded to `dtype`, everything
    else stays float32. `activation` is a name in `activations.ACTIVATIONS`. Source: Brockers et al. 2026,
    `SplitHeadMLP`.
    """

    widths: tuple[int, ...] = (256, 256)
    dtype: str = "float32"
    activation: str = "relu"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width"]
    ) -> tuple[Float[Array, "batch d"], dict[str, Float[Array, "batch ..."]]]:
        return hidden(x.reshape(len(x), -1), self.widths, self.dtype, self.activation)

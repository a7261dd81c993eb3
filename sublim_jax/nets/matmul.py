"""Weights of linear layers, and matrix products with operands rounded to a lower precision."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


class Affine(nn.Module):
    """Kernel [*inputs, outputs] and bias [outputs] of a linear layer or convolution; the caller multiplies."""

    outputs: int

    @nn.compact
    def __call__(self, *inputs: int) -> tuple[Float[Array, "*inputs outputs"], Float[Array, " outputs"]]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (*inputs, self.outputs))
        return kernel, self.param("bias", nn.initializers.zeros, (self.outputs,))


def product(a: Float[Array, "i j"], b: Float[Array, "j k"], dtype: str) -> Float[Array, "i k"]:
    """Compute a @ b with operands rounded to `dtype` and float32 sums; both products of the gradient do the same."""
    return a @ b if dtype == "float32" else _rounded(a, b, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rounded(a: Float[Array, "i j"], b: Float[Array, "j k"], dtype: str) -> Float[Array, "i k"]:
    return _dot(a.astype(dtype), b.astype(dtype))


def _forward(a: Array, b: Array, dtype: str) -> tuple[Array, tuple[Array, Array]]:
    a, b = a.astype(dtype), b.astype(dtype)
    return _dot(a, b), (a, b)


def _backward(dtype: str, kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    a, b = kept
    g = g.astype(dtype)
    return _dot(g, b.T), _dot(a.T, g)


def _dot(a: Array, b: Array) -> Array:
    # Without the barrier XLA on CPU merges the product with a transpose of its result into one that it cannot run
    # ("Unsupported element type for DotThunk").
    return lax.optimization_barrier(lax.dot(a, b, precision=lax.Precision.DEFAULT, preferred_element_type=jnp.float32))


_rounded.defvjp(_forward, _backward)

"""A decoder-only transformer that returns `ModelOutput`, with the blocks of GPT-2, Llama and GPT-NeoX.

Top-level parameters are layers by name: `embed`, `block_0`, `block_1`, ..., `norm`, `unembed` and, with `rank`,
`adapter_0`, ... . `Knobs.share`, `trainable` and noise therefore apply per block or adapter.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.types import ModelOutput

_CHOICES = {"positions": ("learned", "rotary", "rotary_pairs"), "norm": ("rms", "layer"), "mlp": ("gelu", "swiglu")}
_MASKED = -1e30  # score of a masked position
Stream = Float[Array, "batch length width"]
Keyed = Float[Array, "batch length keyed"]
Positions = Int[Array, "#batch length"]
Scaling = tuple[float, float, float, float]
Taps = Mapping[str, Float[Array, "#batch #length width"]]
Past = tuple[Array, Array, Bool[Array, "#rows #length past"]]  # keys and values [rows, group, past, size], visible ones
Attend = Callable[["Block", Stream, Keyed, Keyed], Stream]  # (block, query, key, value) -> values averaged by position
LowRank = Callable[[Array, Array, Array], Array]  # (x, down, up) -> (x @ down) @ up


class Norm(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019) or LayerNorm with shift; parameters `scale` and `shift` [width]."""

    kind: str
    eps: float

    @nn.compact
    def __call__(self, h: Stream) -> Stream:
        return _normed(self, h, "scale", "shift", self.kind, self.eps)


class Embed(nn.Module):
    """Embedding table `tokens` [vocabulary, width], and `positions` [length, width] where positions are learned."""

    vocabulary: int
    width: int
    length: int

    @nn.compact
    def __call__(self, tokens: Num[Array, "batch length"]) -> tuple[Stream, Any]:
        table = self.param("tokens", nn.initializers.normal(0.02), (self.vocabulary, self.width))
        h = table[tokens.astype(jnp.int32)]
        if self.length:
            positions = self.param("positions", nn.initializers.normal(0.02), (self.length, self.width))
            h = h + positions[None, : tokens.shape[1]]
        return h, table


class Unembed(nn.Module):
    """Unembedding matrix `kernel` [width, vocabulary]."""

    vocabulary: int

    @nn.compact
    def __call__(self, h: Stream) -> Float[Array, "batch length vocabulary"]:
        return h @ self.param("kernel", nn.initializers.lecun_normal(), (h.shape[-1], self.vocabulary))


class Adapter(nn.Module):
    """Low-rank updates of a block's matrices: NAME_down [in, rank] and NAME_up [rank, out]. Source: Hu et al. 2021."""

    sizes: tuple[tuple[str, int, int], ...]
    rank: int

    @nn.compact
    def __call__(self) -> dict[str, tuple[Array, Array]]:
        return {
            name: (
                self.param(f"{name}_down", nn.initializers.lecun_normal(), (inner, self.rank)),
                self.param(f"{name}_up", nn.initializers.zeros, (self.rank, outer)),
            )
            for name, inner, outer in self.sizes
        }


class Decoder(nn.Module):
    """Map tokens [batch, length] to `ModelOutput`: features [batch, length, width], logits [batch, length, vocabulary].

    Logits at a position depend only on tokens up to it; `acts["block_i"]` is the residual stream after block i. The
    call takes `taps`, values added to the residual stream after named blocks (steering, or zeros to differentiate with
    respect to), and `attend` and `multiply`, replacements of the functions `attend` (for instance with a key-value
    cache) and `low_rank` (for instance with derivatives of its own). Raises `ConfigError` for incompatible sizes.

    Attributes:
        vocabulary, width, layers, heads, hidden: sizes; `hidden` is the MLP's.
        length: maximum sequence length of learned positions.
        kv_heads: heads of keys and values; 0 = as many as query heads.
        positions: 'learned', 'rotary' (halves) or 'rotary_pairs' (neighbouring components).
        rotary, theta, scaling: rotated fraction of a head, base of the wavelengths, their scaling (see `wavelengths`).
        norm, eps: 'rms' or 'layer', and the constant in its denominator.
        mlp: 'gelu' (two matrices) or 'swiglu' (three).
        parallel: attention and MLP read the same stream, as in GPT-NeoX.
        bias: matrices of blocks have biases.
        tied: the unembedding is the transposed embedding.
        rank: rank of the adapters of blocks; 0 = none.
        adapter_scale: factor of what adapters add, alpha / rank of Hu et al. 2021.
        adapter_matrices: names of the matrices that have adapters; empty = every matrix.
        adapter_blocks: numbers of the blocks that have adapters; empty = every block.
        remat: compute a block again for its derivatives instead of storing what it computed.
    """

    vocabulary: int
    width: int = 48
    layers: int = 4
    heads: int = 4
    hidden: int = 192
    length: int = 64
    kv_heads: int = 0
    positions: str = "learned"
    rotary: float = 1.0
    theta: float = 10000.0
    scaling: Scaling | None = None
    norm: str = "rms"
    mlp: str = "gelu"
    parallel: bool = False
    bias: bool = False
    tied: bool = False
    eps: float = 1e-5
    rank: int = 0
    adapter_scale: float = 1.0
    adapter_matrices: tuple[str, ...] = ()
    adapter_blocks: tuple[int, ...] = ()
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        tokens: Num[Array, "batch length"],
        taps: Taps | None = None,
        attend: Attend | None = None,
        multiply: LowRank | None = None,
    ) -> ModelOutput:
        self._check(tokens.shape[1])
        taps = taps or {}
        learned = self.length if self.positions == "learned" else 0
        h, table = Embed(self.vocabulary, self.width, learned, name="embed")(tokens)
        acts: dict[str, Array] = {}
        fields = {name: getattr(self, name) for name in _OF_A_BLOCK}
        kind = nn.remat(Block, static_argnums=(3, 4)) if self.remat else Block
        for index in range(self.layers):
            name = f"block_{index}"
            block = kind(**fields, name=name)
            sizes = self.adapter_sizes(index)
            low = Adapter(sizes, self.rank, name=f"adapter_{index}")() if sizes else {}
            h = block(h, low, attend, multiply)
            h = h + taps[name] if name in taps else h
            acts[name] = h
        h = Norm(self.norm, self.eps, name="norm")(h)
        logits = h @ table.T if self.tied else Unembed(self.vocabulary, name="unembed")(h)
        return ModelOutput(h, logits, acts)

    def adapter_sizes(self, index: int) -> tuple[tuple[str, int, int], ...]:
        """Return (name, inputs, outputs) of each matrix of a block that has an adapter."""
        if not self.rank or index not in (self.adapter_blocks or range(self.layers)):
            return ()
        fields = {name: getattr(self, name) for name in _OF_A_BLOCK}
        every = matrices(Block(**fields, parent=None), self.width)
        return tuple(sizes for sizes in every if not self.adapter_matrices or sizes[0] in self.adapter_matrices)

    def _check(self, length: int) -> None:
        for field, allowed in _CHOICES.items():
            if getattr(self, field) not in allowed:
                raise ConfigError(unknown_name(f"Decoder.{field}", getattr(self, field), allowed))
        if self.width % self.heads or self.heads % (self.kv_heads or self.heads):
            rule = f"must divide width={self.width} and be a multiple of kv_heads={self.kv_heads}"
            raise ConfigError(f"Decoder.heads={self.heads}: {rule}")
        if self.positions == "learned" and length > self.length:
            raise ConfigError(f"Decoder.length={self.length}: must be at least {length}, the number of tokens")


class Block(nn.Module):
    """One block of a `Decoder`: causal attention and an MLP, each applied to a normalised stream and added to it."""

    heads: int
    kv_heads: int
    hidden: int
    positions: str
    rotary: float
    theta: float
    scaling: Scaling | None
    norm: str
    mlp: str
    parallel: bool
    bias: bool
    eps: float
    adapter_scale: float

    @nn.compact
    def __call__(
        self,
        h: Stream,
        low: Mapping[str, tuple[Array, Array]],
        attending: Attend | None = None,
        multiply: LowRank | None = None,
    ) -> Stream:
        outs = {name: outer for name, _, outer in matrices(self, h.shape[-1])}

        def linear(name: str, x: Array) -> Array:
            y = x @ self.param(name, nn.initializers.lecun_normal(), (x.shape[-1], outs[name]))
            if self.bias:
                y = y + self.param(f"{name}_bias", nn.initializers.zeros, (outs[name],))[None, None]
            if name not in low:
                return y
            added = (multiply or low_rank)(x, *low[name])
            return y + (added if self.adapter_scale == 1 else self.adapter_scale * added)

        normed = _normed(self, h, "attend_scale", "attend_shift", self.norm, self.eps)
        attended = (attending or attend)(self, *(linear(name, normed) for name in ("query", "key", "value")))
        stream = h + linear("out", attended)
        normed = _normed(self, h if self.parallel else stream, "mlp_scale", "mlp_shift", self.norm, self.eps)
        if self.mlp == "swiglu":
            middle = jax.nn.silu(linear("gate", normed)) * linear("up", normed)
        else:
            middle = jax.nn.gelu(linear("up", normed), approximate=False)
        return stream + linear("down", middle)


_OF_A_BLOCK = ("heads", "kv_heads", "hidden", "positions", "rotary", "theta", "scaling")
_OF_A_BLOCK += ("norm", "mlp", "parallel", "bias", "eps", "adapter_scale")


def matrices(block: Block, width: int) -> tuple[tuple[str, int, int], ...]:
    """Return (name, inputs, outputs) of each matrix of a block, for a residual stream of the given width."""
    keyed = (block.kv_heads or block.heads) * (width // block.heads)
    attention = ("query", width, width), ("key", width, keyed), ("value", width, keyed), ("out", width, width)
    gate = (("gate", width, block.hidden),) if block.mlp == "swiglu" else ()
    return (*attention, *gate, ("up", width, block.hidden), ("down", block.hidden, width))


def low_rank(x: Array, down: Array, up: Array) -> Array:
    """Multiply with two factors of a matrix, [in, rank] and [rank, out]."""
    return (x @ down) @ up


def attend(block: Block, query: Stream, key: Keyed, value: Keyed) -> Stream:
    """Compute causal scaled dot-product attention with a block's heads and positions."""
    length = query.shape[1]
    q, k, v = parts(block, query, key, value, jnp.arange(length)[None])
    return weighed(block, q, (k, v, causal(length)))


def causal(length: int) -> Bool[Array, "1 length length"]:
    """Return which of some tokens each of them sees: those before it, and itself."""
    return jnp.tril(jnp.ones((1, length, length), bool))


def parts(block: Block, query: Stream, key: Keyed, value: Keyed, positions: Positions) -> tuple[Array, Array, Array]:
    """Split queries, keys and values into heads, [batch, head, length, size], with rotary positions if any."""
    size = query.shape[-1] // block.heads
    q, k, v = (x.reshape(*x.shape[:2], -1, size).swapaxes(1, 2) for x in (query, key, value))
    if block.positions != "learned":
        rates = wavelengths(int(size * block.rotary), block.theta, block.scaling)
        q, k = (rotated(x, rates, positions, block.positions == "rotary_pairs") for x in (q, k))
    return q, k, v


def weighed(block: Block, q: Array, *pasts: Past) -> Stream:
    """Average values with softmax weights of scaled query-key products over visible keys; concatenate the heads.

    Args:
        block: The block, for its numbers of heads.
        q: Queries, [batch, head, length, size].
        pasts: What they attend to; together at least one visible key for each query. A row of a past serves as many
            consecutive rows of the batch as it has fewer rows.
    """
    n, _, length, size = q.shape
    scores = jnp.concatenate([_scores(q, k, seen) for k, _, seen in pasts], axis=-1) / math.sqrt(size)
    weights = jax.nn.softmax(scores, axis=-1)
    ends = list(itertools.accumulate(k.shape[2] for k, _, _ in pasts[:-1]))
    averaged = [
        _averaged(part.astype(v.dtype), v) for part, (_, v, _) in zip(jnp.split(weights, ends, -1), pasts, strict=True)
    ]
    return sum(averaged[1:], averaged[0]).swapaxes(1, 2).reshape(n, length, block.heads * size)


def _scores(q: Array, k: Array, seen: Array) -> Float[Array, "batch group shared length past"]:
    """Products of queries and keys, those that are not seen masked. Queries that share keys are one matrix."""
    (n, heads, length, size), (rows, groups, past, _) = q.shape, k.shape
    queries = q.reshape(rows, n // rows, groups, -1, size).swapaxes(1, 2).reshape(rows, groups, -1, size)
    scores = (queries @ k.swapaxes(-1, -2)).astype(jnp.float32)
    scores = scores.reshape(rows, groups, n // rows, heads // groups, length, past)
    masked = jnp.where(seen[:, None, None, None], scores, _MASKED)
    return masked.swapaxes(1, 2).reshape(n, groups, heads // groups, length, past)


def _averaged(weights: Array, v: Array) -> Float[Array, "batch head length size"]:
    """Values averaged with the weights of each query."""
    (n, groups, shared, length, past), (rows, _, _, size) = weights.shape, v.shape
    own = weights.reshape(rows, n // rows, groups, -1, past).swapaxes(1, 2).reshape(rows, groups, -1, past)
    averaged = (own @ v).reshape(rows, groups, n // rows, shared * length, size).swapaxes(1, 2)
    return averaged.reshape(n, groups * shared, length, size)


def wavelengths(number: int, theta: float, scaling: Scaling | None = None) -> Float[Array, " half"]:
    """Return the rotary angle per position, in radians, of each pair of `number` components: theta^(-2i/number).

    A scaling (factor, low, high, length) divides by `factor` the rates with fewer than `low` turns in `length`
    positions, keeps those above `high` and interpolates between. Source: Llama 3.1 (Meta 2024), rope code.
    """
    rates = theta ** (-jnp.arange(0, number, 2, dtype=jnp.float32) / number)
    if scaling is None:
        return rates
    factor, low, high, length = scaling
    kept = jnp.clip((length * rates / (2 * math.pi) - low) / (high - low), 0, 1)
    return rates * (kept + (1 - kept) / factor)


def rotated(x: Array, rates: Float[Array, " half"], positions: Positions, pairs: bool) -> Array:
    """Apply rotary positions, angle position * rate, to the first components of heads [batch, head, length, size].

    Component i is paired with i + n/2 (Llama and GPT-NeoX checkpoints), or with its neighbour (`pairs`; GGUF files).
    Source: Su et al. 2021.
    """
    number = 2 * len(rates)
    turn, rest = x[..., :number], x[..., number:]
    angle = positions[:, None, :, None].astype(jnp.float32) * rates[None, None, None]
    cos, sin = (wave(angle).astype(x.dtype) for wave in (jnp.cos, jnp.sin))
    left, right = (turn[..., 0::2], turn[..., 1::2]) if pairs else jnp.split(turn, 2, axis=-1)
    both = left * cos - right * sin, right * cos + left * sin
    turned = jnp.stack(both, axis=-1).reshape(turn.shape) if pairs else jnp.concatenate(both, axis=-1)
    return jnp.concatenate([turned, rest], axis=-1)


def _normed(module: nn.Module, h: Array, scale: str, shift: str, kind: str, eps: float) -> Array:
    """RMSNorm or LayerNorm, computed in float32, with parameters of the calling module."""
    gain = module.param(scale, nn.initializers.ones, h.shape[-1:])[None, None]
    wide = h.astype(jnp.float32)
    if kind == "rms":
        return (wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + eps)).astype(h.dtype) * gain
    centred = wide - wide.mean(-1, keepdims=True)
    unit = (centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)).astype(h.dtype)
    return unit * gain + module.param(shift, nn.initializers.zeros, h.shape[-1:])[None, None]

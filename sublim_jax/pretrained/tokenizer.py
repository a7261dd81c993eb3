"""Tokenizers and chat templates of pretrained models, by the packages tokenizers and jinja2."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.pretrained import checkpoint_io

_CONTROL, _USER_DEFINED = 3, 4  # GGUF token kinds outside the BPE merges
_PRE = ("gpt-2", "smollm")  # supported GGUF pre-tokenizers


class Tokenizer:
    """A tokenizer of the package tokenizers, a chat template (empty = none), and special tokens by role."""

    def __init__(self, inner: Any, template: str, special: Mapping[str, str], where: str) -> None:
        self._inner, self.template, self.special, self._where = inner, template, special, where

    def encode(self, text: str) -> list[int]:
        """Encode text, which may contain special tokens; none is added."""
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int | np.integer] | Integer[np.ndarray, " n"]) -> str:
        """Decode tokens, including special tokens."""
        return self._inner.decode([int(token) for token in tokens], skip_special_tokens=False)

    def whole(self, text: str) -> int | None:
        """Return the token of a text that is a single token, else None."""
        tokens = self.encode(text)
        return tokens[0] if len(tokens) == 1 else None

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Format messages (role, content) with the chat template, up to the beginning of the answer.

        The result does not depend on the date: templates use their default.

        Raises:
            ConfigError: the model has no template, or the template rejects the messages.
        """
        if not self.template:
            raise ConfigError(f"{self._where}: has no chat template; it is not instruction-tuned")
        import jinja2
        import jinja2.sandbox

        def refuse(message: str) -> None:
            raise ConfigError(f"{self._where}: its chat template says: {message}")

        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        variables = {"messages": [dict(message) for message in messages], "add_generation_prompt": True}
        try:
            template = environment.from_string(self.template, globals={"raise_exception": refuse})
            return template.render(**variables, **self.special)
        except jinja2.TemplateError as error:
            raise ConfigError(f"{self._where}: its chat template fails: {' '.join(str(error).split())}") from error


def of_fields(fields: Mapping[str, Any], where: str) -> tuple[Tokenizer | None, str]:
    """Build the byte-level BPE of a GGUF file's metadata; None and the reason if it is of another kind."""
    kinds = {"tokenizer.ggml.model": ["gpt2"], "tokenizer.ggml.pre": _PRE}
    for name, allowed in kinds.items():
        if fields.get(name) not in allowed:
            return None, unknown_name(name, fields.get(name), allowed)
    package = checkpoint_io.package("tokenizers", "its tokenizer")
    from tokenizers import decoders, models, pre_tokenizers

    tokens, merges = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.merges"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    inner = package.Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    digits = [pre_tokenizers.Digits(individual_digits=True)] if fields["tokenizer.ggml.pre"] == "smollm" else []
    add_space = bool(fields.get("tokenizer.ggml.add_space_prefix", False))
    inner.pre_tokenizer = pre_tokenizers.Sequence([*digits, pre_tokenizers.ByteLevel(add_prefix_space=add_space)])
    inner.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, fields.get("tokenizer.ggml.token_type", ()), strict=False):
        if kind in (_CONTROL, _USER_DEFINED):
            inner.add_special_tokens([package.AddedToken(token, special=kind == _CONTROL, normalized=False)])
    ids = {f"{role}_token": fields.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos")}
    special = {role: tokens[number] for role, number in ids.items() if number is not None}
    return Tokenizer(inner, fields.get("tokenizer.chat_template", ""), special, where), ""


def of_folder(path: Path) -> tuple[Tokenizer | None, str]:
    """Build the tokenizer of a directory's tokenizer.json and chat template; None and the reason if it has none."""
    where = f"model={path}"
    if not (path / "tokenizer.json").is_file():
        return None, "no tokenizer.json"
    package = checkpoint_io.package("tokenizers", "tokenizer.json")
    try:
        inner = package.Tokenizer.from_file(str(path / "tokenizer.json"))
    except Exception as error:  # the package raises no narrower type
        raise ConfigError(f"{where}: tokenizer.json: cannot be read ({' '.join(str(error).split())})") from error
    file = path / "tokenizer_config.json"
    about = checkpoint_io.read_json(file, where) if file.is_file() else {}
    template = about.get("chat_template") or ""
    if not isinstance(template, str):  # several, by name
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), "")
    if (path / "chat_template.jinja").is_file():
        template = (path / "chat_template.jinja").read_text(encoding="utf-8")
    tokens = {role: about[role] for role in ("bos_token", "eos_token") if about.get(role)}
    special = {role: token["content"] if isinstance(token, dict) else token for role, token in tokens.items()}
    return Tokenizer(inner, template, special, where), ""

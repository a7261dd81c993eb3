"""Tokenizers and chat templates of pretrained models, by the packages tokenizers and jinja2."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.pretrained import checkpoint_io

_CONTROL, _USER_DEFINED = 3, 4  # GGUF token kinds outside the BPE merges
TOKENIZER_BYTES = 2**26  # of tokenizer.json
_PRE = ("gpt-2", "smollm")  # supported GGUF pre-tokenizers


class Tokenizer:
    """A tokenizer of the package tokenizers, a chat template (empty = none), and special tokens by role.

    `begin` says whether a text without chat template begins with the token `bos_token`; None: `tokenizer.json` says it.
    """

    def __init__(
        self, inner: Any, template: str, special: Mapping[str, str], where: str, begin: bool | None = False
    ) -> None:
        self._inner, self.template, self.special, self._where, self._begin = inner, template, special, where, begin

    @property
    def size(self) -> int:
        """The largest token, plus one."""
        return max(self._inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str) -> list[int]:
        """Encode text, which may contain special tokens; none is added."""
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def encode_prompt(self, text: str) -> list[int]:
        """Encode the beginning of a text as the model's own tokenizer does.

        A text from the chat template has its special tokens already; to another one the tokenizer may add some.
        """
        if self.template or self._begin is False:
            return self.encode(text)
        if self._begin is None:
            return list(self._inner.encode(text, add_special_tokens=True).ids)
        return [self._inner.token_to_id(self.special["bos_token"]), *self.encode(text)]

    def decode(self, tokens: Sequence[int | np.integer] | Integer[np.ndarray, " n"]) -> str:
        """Decode tokens, including special tokens."""
        return self._inner.decode([int(token) for token in tokens], skip_special_tokens=False)

    def whole(self, text: str) -> int | None:
        """Return the token of a text that is a single token, else None."""
        tokens = self.encode(text)
        return tokens[0] if len(tokens) == 1 else None

    def prompt(self, messages: Sequence[tuple[str, str]]) -> str:
        """Format messages (role, text) up to the beginning of the answer; as lines of text without chat template."""
        if not self.template:
            return "\n".join([*(text for _, text in messages), ""])
        return self.chat([{"role": role, "content": text} for role, text in messages])

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Format messages (role, content) with the chat template, up to the beginning of the answer.

        The result does not depend on the date: templates use their default.

        Raises:
            ConfigError: the model has no template, or the template rejects the messages or fails.
        """
        if not self.template:
            raise ConfigError(f"{self._where}: has no chat template; it is not instruction-tuned")
        from sublim_jax.pretrained import chat_template

        variables = {"messages": [dict(message) for message in messages], "add_generation_prompt": True}
        return chat_template.render(self.template, {**variables, **self.special}, self._where)


def of_fields(fields: Mapping[str, Any], where: str) -> tuple[Tokenizer | None, str]:
    """Build the byte-level BPE of a GGUF file's metadata; None and the reason if it is of another kind."""
    kinds = {"tokenizer.ggml.model": ["gpt2"], "tokenizer.ggml.pre": _PRE}
    for name, allowed in kinds.items():
        if fields.get(name) not in allowed:
            return None, unknown_name(name, str(fields.get(name))[:80], allowed)
    checkpoint_io.package("tokenizers", "its tokenizer")
    template = fields.get("tokenizer.chat_template", "")
    tokens, special = _tokens_of_fields(fields, where)
    begin = _flag(fields.get("tokenizer.ggml.add_bos_token"), "tokenizer.ggml.add_bos_token", where) or False
    inner = _built(lambda: _byte_level(fields, tokens), where, "tokenizer.ggml")
    return _checked(inner, template, special, where, begin), ""


def _tokens_of_fields(fields: Mapping[str, Any], where: str) -> tuple[list[str], dict[str, str]]:
    """Tokens and special tokens by role, checked."""
    lists = [fields.get(f"tokenizer.ggml.{name}") for name in ("tokens", "merges")]
    if not all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in lists):
        raise ConfigError(f"{where}: tokenizer.ggml.tokens and tokenizer.ggml.merges must be lists of texts")
    tokens = lists[0] or []
    if len(set(tokens)) < len(tokens):
        raise ConfigError(f"{where}: tokenizer.ggml.tokens has a token twice")
    special = {}
    for role in ("bos", "eos"):
        number = fields.get(f"tokenizer.ggml.{role}_token_id")
        if number is not None and not (isinstance(number, int) and 0 <= number < len(tokens)):
            raise ConfigError(f"{where}: tokenizer.ggml.{role}_token_id={number!r}: is not among {len(tokens)} tokens")
        if number is not None:
            special[f"{role}_token"] = tokens[number]
    return tokens, special


def _byte_level(fields: Mapping[str, Any], tokens: Sequence[str]) -> Any:
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Inner

    merges = [(left, right) for left, right in (merge.split(" ") for merge in fields["tokenizer.ggml.merges"])]
    inner = Inner(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    digits = [pre_tokenizers.Digits(individual_digits=True)] if fields["tokenizer.ggml.pre"] == "smollm" else []
    add_space = bool(fields.get("tokenizer.ggml.add_space_prefix", False))
    inner.pre_tokenizer = pre_tokenizers.Sequence([*digits, pre_tokenizers.ByteLevel(add_prefix_space=add_space)])
    inner.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, fields.get("tokenizer.ggml.token_type", ()), strict=False):
        if kind in (_CONTROL, _USER_DEFINED):
            inner.add_special_tokens([AddedToken(token, special=kind == _CONTROL, normalized=False)])
    return inner


def of_folder(path: Path) -> tuple[Tokenizer | None, str]:
    """Build the tokenizer of a directory's tokenizer.json and chat template; None and the reason if it has none."""
    where = f"model={path}"
    if not (path / "tokenizer.json").is_file():
        return None, "no tokenizer.json"
    text = checkpoint_io.read_text(path / "tokenizer.json", where, TOKENIZER_BYTES)
    package = checkpoint_io.package("tokenizers", "tokenizer.json")
    inner = _built(lambda: package.Tokenizer.from_str(text), where, "tokenizer.json")
    file = path / "tokenizer_config.json"
    about = checkpoint_io.read_json(file, where) if file.is_file() else {}
    template = about.get("chat_template") or ""
    if isinstance(template, list):  # several, by name
        named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = named[0].get("template") if named else ""
    if (path / "chat_template.jinja").is_file():
        template = checkpoint_io.read_text(path / "chat_template.jinja", where, checkpoint_io.JSON_BYTES)
    tokens = {role: about[role] for role in ("bos_token", "eos_token") if about.get(role)}
    special = {role: token.get("content") if isinstance(token, dict) else token for role, token in tokens.items()}
    begin = _flag(about.get("add_bos_token"), "tokenizer_config.json: add_bos_token", where)
    return _checked(inner, template, special, where, begin), ""


def _built(build: Callable[[], Any], where: str, file: str) -> Any:
    """The result of the package tokenizers, whose errors have no type of their own."""
    try:
        return build()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ConfigError(f"{where}: {file}: cannot be read ({' '.join(str(error).split())})") from error


def _flag(value: Any, name: str, where: str) -> bool | None:
    if value not in (None, True, False):
        raise ConfigError(f"{where}: {name}={value!r}: must be true or false")
    return value


def _checked(inner: Any, template: Any, special: Mapping[str, Any], where: str, begin: bool | None) -> Tokenizer:
    """The tokenizer, if its template and special tokens are texts and a first token that it needs is there."""
    for name, text in {"chat_template": template, **special}.items():
        if not isinstance(text, str):
            raise ConfigError(f"{where}: {name}: must be a text, not {type(text).__name__}")
    if begin and inner.token_to_id(special.get("bos_token", "")) is None:
        raise ConfigError(f"{where}: add_bos_token is set, but the tokenizer has no bos_token")
    return Tokenizer(inner, template, special, where, begin)

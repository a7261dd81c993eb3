"""Atomic file writes."""

import os
import uuid
from pathlib import Path

from sublim_jax.core.errors import ConfigError


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file and rename it to `path`, so that no reader sees a partial file."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # jobs in containers share process numbers
    temporary.write_bytes(content)
    os.replace(temporary, path)


def check_output(setting: str, folder: Path) -> None:
    """Raise `ConfigError` beginning with `setting` unless a folder is there and can be written, or can be made."""
    if "://" in setting or "\0" in setting:
        raise ConfigError(f"{setting!r}: must be a folder of this machine")
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:  # a name that is too long
        raise ConfigError(f"{setting}: {error.strerror}") from error
    if not existing.is_dir():
        raise ConfigError(f"{setting}: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK) or existing.is_relative_to("/proc"):
        raise ConfigError(f"{setting}: {existing} cannot be written")

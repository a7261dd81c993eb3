"""Files that are whole or absent, also after power loss, and whose checksums are verified on reading.

A sealed file holds a text `sha256=<64 hexadecimal digits> of=<32>` where its format allows metadata. The first number
is the SHA-256 of the file with zeros in its place, the second names what the file belongs to.
"""

import contextlib
import hashlib
import os
import re
import sys
import uuid
from pathlib import Path

from sublim_jax.core.errors import ConfigError

_DIGITS = 64
_SEAL = re.compile(rb"sha256=([0-9a-f]{64}) of=([0-9a-f]{32})")


class DamagedFile(ConfigError):
    """A file cannot be read, is not what was written, or belongs to something else; `reason` says which."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


def replace_file(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file under a temporary name and rename it: no reader sees a part of it, not even after power loss."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # jobs in containers share process numbers
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed processes left of files that they were writing in a folder."""
    for path in folder.rglob(".*.tmp"):
        if re.fullmatch(r"\..+\.[0-9a-f]{32}\.tmp", path.name):
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the system can."""
    with contextlib.suppress(OSError):  # Windows, some network file systems
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def seal(of: str = "") -> str:
    """The text to put into the metadata of a file that `write_sealed` writes; `of` names what the file belongs to."""
    return f"sha256={'0' * _DIGITS} of={_name(of)}"


def _name(of: str) -> str:
    return hashlib.blake2s(of.encode(), digest_size=16).hexdigest()


def write_sealed(path: Path, content: bytes) -> None:
    """Write a file as `replace_file` does; the seal that it holds gets the checksum of the content."""
    start = content.index(seal()[: -len(_name(""))].encode()) + len("sha256=")
    view, digest = memoryview(content), hashlib.sha256(content).hexdigest().encode()
    replace_file(path, view[:start], digest, view[start + _DIGITS :])


def read_sealed(path: Path, of: str | None = None, *, required: bool = True) -> bytes:
    """Read a file and verify its checksum.

    Args:
        path: A file that `write_sealed` wrote.
        of: What the file must belong to; None = anything.
        required: Whether a file without a checksum, as older versions wrote, is damaged.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFile: It cannot be read, its checksum differs, or it belongs to something else.
    """
    try:
        if path.exists() and not path.is_file():  # a folder, or a pipe, which would wait for a writer
            raise DamagedFile(path, "is no file")
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFile(path, f"cannot be read ({error.strerror or error})") from error
    if (match := _SEAL.search(content)) is None:
        if required:
            raise DamagedFile(path, "is not whole (no checksum)")
        return content
    start, stop = match.span(1)
    view, digest = memoryview(content), hashlib.sha256()
    for part in (view[:start], b"0" * _DIGITS, view[stop:]):
        digest.update(part)
    if digest.hexdigest().encode() != match[1]:
        raise DamagedFile(path, "is damaged (its checksum differs)")
    if of is not None and match[2].decode() != _name(of):
        raise DamagedFile(path, "belongs to another run")
    return content


def has_seal(path: Path) -> bool:
    """Whether a file, damaged or not, holds a seal."""
    try:
        return _SEAL.search(path.read_bytes()) is not None
    except OSError:
        return False


def set_aside(error: DamagedFile) -> None:
    """Rename a damaged file or folder to NAME.damaged, where that is allowed, and say so in one line."""
    path = error.path
    aside = free_name(path.with_name(f"{path.name}.damaged"))
    try:
        os.replace(path, aside)
    except OSError:  # another job was first, or the folder cannot be written
        return
    sync_folder(path.parent)
    print(
        f"{path}: {error.reason}; renamed to {aside.name}, what it held is computed again", file=sys.stderr, flush=True
    )


def free_name(path: Path) -> Path:
    """The path, or the first of PATH-2, PATH-3, ... that does not exist."""
    free, number = path, 1
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


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

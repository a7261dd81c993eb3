"""One job at a time for each part of a work directory, among all processes and machines that see it."""

import contextlib
import datetime
import os
import platform
import weakref
from pathlib import Path
from typing import Any

from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import free_name

try:
    import fcntl
except ImportError:  # Windows: jobs are not kept apart
    fcntl: Any = None

FOLDER = ".locks"


class Lock:
    """The lock of shard (i, n) of a folder, held until `release`, or until the process ends, however it ends.

    Shards that overlap exclude each other: 0/1 and any other, 0/2 and 1/4, but not 0/2 and 1/2. Where the file system
    has no locks, nothing is excluded.

    Raises:
        ConfigError: Another job holds an overlapping shard; the message names its process, machine and start.
    """

    def __init__(self, folder: Path, shard: tuple[int, int] = (0, 1)) -> None:
        self.release = lambda: None
        if fcntl is None:
            return
        locks = folder / FOLDER
        with contextlib.suppress(OSError):
            locks.mkdir(exist_ok=True)
            guard = os.open(locks / "guard", os.O_CREAT | os.O_RDWR)  # one job at a time looks and takes
            try:
                fcntl.flock(guard, fcntl.LOCK_EX)
                self._refuse_overlap(folder, shard)
                self.release = weakref.finalize(self, os.close, self._take(locks, shard))
            finally:
                os.close(guard)

    @staticmethod
    def _refuse_overlap(folder: Path, shard: tuple[int, int]) -> None:
        for path in (folder / FOLDER).glob("*of*"):
            if not _overlap(shard, _shard_of(path)):
                continue
            number = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.read(number, 1000).decode(errors="replace")
                hint = f"wait for it, or choose another, for instance --workdir={free_name(folder)}"
                raise ConfigError(f"workdir={folder}: is in use by {holder}; {hint}") from error
            finally:
                os.close(number)

    @staticmethod
    def _take(locks: Path, shard: tuple[int, int]) -> int:
        number = os.open(locks / "{}of{}".format(*shard), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            os.truncate(number, 0)
            os.write(number, f"process {os.getpid()} on {platform.node()} since {now}".encode())
        except OSError:
            os.close(number)
            raise
        return number


def _shard_of(path: Path) -> tuple[int, int]:
    index, _, number = path.name.partition("of")
    return (int(index), int(number)) if index.isdigit() and number.isdigit() and int(number) else (0, 1)


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether i/n to (i + 1)/n of two shards have a part in common."""
    return one[0] * other[1] < (other[0] + 1) * one[1] and other[0] * one[1] < (one[0] + 1) * other[1]

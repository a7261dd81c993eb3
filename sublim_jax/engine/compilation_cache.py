"""Compiled programs on disk, so that the second run of a config starts at once."""

import contextlib
import ctypes
import glob
import os
import platform
import re
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"  # JAX's own; where it is set, it decides


def enable(folder: str | Path | None = None) -> Path | None:
    """Keep compiled programs in a directory; call it before anything is compiled.

    JAX's environment variables take precedence: JAX_COMPILATION_CACHE_DIR names another directory,
    JAX_ENABLE_COMPILATION_CACHE=false keeps nothing. Kinds of processor have separate directories, because a program
    for one CPU may hold instructions that another lacks.

    Args:
        folder: The directory; default: one in the user's cache.

    Returns:
        The directory, or None where none can be made.
    """
    settings: Any = jax.config
    if not settings.jax_enable_compilation_cache:
        return None
    path = Path(folder or os.environ.get(_VARIABLE) or user_cache_dir() / _machine())
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home
        return None
    _listen_for_damage(path)
    settings.update("jax_compilation_cache_dir", str(path))
    settings.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    settings.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return path


def few_maps_left() -> bool:
    """Whether compiled programs hold half of the memory maps that Linux allows a process (65,530 by default).

    A program for CPU holds tens to thousands of maps. XLA crashes the process when it gets no more of them.
    """
    try:
        allowed = int(Path("/proc/sys/vm/max_map_count").read_text())
        return 2 * Path("/proc/self/maps").read_bytes().count(b"\n") > allowed
    except OSError:  # not on Linux
        return False


def release_memory(programs: bool = False) -> None:
    """Return memory that the compiler has freed to the system, which glibc does not do by itself.

    Args:
        programs: Whether compiled programs are forgotten first, as they are where few memory maps are left; the disk
            cache gives them back.
    """
    if programs or few_maps_left():
        jax.clear_caches()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _listen_for_damage(folder: Path) -> None:
    """Say once that programs are damaged, where JAX warns of each; remove them, so that JAX writes them again.

    JAX compares a checksum of each program (of its compression), compiles what it cannot read, and keeps the old file.
    """
    show, said = warnings.showwarning, []

    def show_or_mend(message: Any, *args: Any, **options: Any) -> None:
        damaged = re.match(r"Error (reading|writing) persistent compilation cache entry for '([^']+)'", str(message))
        if damaged is None:
            return show(message, *args, **options)
        if not said:
            said.append(damaged[1])
            print(
                f"{folder}: error {damaged[1]} compiled programs; they are compiled again", file=sys.stderr, flush=True
            )
        for file in folder.glob(f"{glob.escape(damaged[2])}-*") if damaged[1] == "reading" else ():
            with contextlib.suppress(OSError):
                file.unlink()
        return None

    warnings.showwarning = show_or_mend


def user_cache_dir() -> Path:
    """This package's directory in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sublim_jax"


def _machine() -> str:
    """The kind of processor: on Linux by the list of its features, elsewhere by its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kind = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{zlib.crc32(kind.encode()):08x}"

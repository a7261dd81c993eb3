"""The code version and the machine that produced a result."""

import importlib.metadata
import importlib.resources
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "safetensors", "numpy", "scipy", "pyarrow", "sublim_jax")


def provenance() -> dict[str, Any]:
    """The versions of the numerical packages, the commit of this code, and the machine, as plain values."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"versions": versions, "commit": _commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}


def _commit() -> str:
    """The commit of the package's checkout, with '+dirty' if tracked files differ; 'unknown' outside a checkout."""
    here = Path(str(importlib.resources.files("sublim_jax"))).resolve()

    def git(*words: str) -> str:
        return subprocess.run(("git", *words), cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != here.parent:
            return "unknown"
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

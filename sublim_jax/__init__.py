"""Subliminal learning as one XLA program: teachers, students, and what passes between them through noise."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy, so that reading rows and drawing figures needs no accelerator library.
    if name == "load":
        from sublim_jax.records import load

        return load
    raise AttributeError(f"module 'sublim_jax' has no attribute {name!r}")

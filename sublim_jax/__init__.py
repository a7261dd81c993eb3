"""Subliminal learning as one XLA program: teachers, students, and what passes between them through noise."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy, so that reading rows and drawing figures needs no accelerator library.
    if name == "load":
        from sublim_jax.records import load

        return load
    if name == "audit":  # the module of that name, once it is imported, is called in the same way
        from sublim_jax.auditing import audit

        return audit
    raise AttributeError(f"module 'sublim_jax' has no attribute {name!r}")

"""Subliminal learning as one XLA program: teachers, students, and what passes between them through noise."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy, so that reading rows and drawing figures needs no accelerator library.
    if name == "load":
        from sublim_jax.results.workdir import load

        return load
    if name == "audit_pair":
        from sublim_jax.audit.pair import audit_pair

        return audit_pair
    raise AttributeError(f"module 'sublim_jax' has no attribute {name!r}")

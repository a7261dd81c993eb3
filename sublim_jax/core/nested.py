"""Nested dictionaries as flat ones, without JAX."""

from typing import Any


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return a nested dictionary as a flat one from dotted names to values."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    items = [flatten(value, f"{prefix}.{name}" if prefix else name) for name, value in tree.items()]
    return {name: value for item in items for name, value in item.items()}

"""Configs: their fields, presets and grids, and the typed conditions that they describe. JAX is imported by need."""

from typing import TYPE_CHECKING, Any

from sublim_jax.config.base import base_config as base_config
from sublim_jax.config.base import cloud_config as cloud_config
from sublim_jax.config.base import default_workdir as default_workdir
from sublim_jax.config.base import identity as identity
from sublim_jax.config.base import infomorphic_config as infomorphic_config
from sublim_jax.config.base import resolve as resolve
from sublim_jax.config.base import seeds_of as seeds_of
from sublim_jax.config.grid import Config as Config

if TYPE_CHECKING:
    from sublim_jax.config.build import build_conditions as build_conditions
    from sublim_jax.config.build import grids_of as grids_of
    from sublim_jax.config.build import load_data as load_data
    from sublim_jax.config.build import metrics_of as metrics_of
    from sublim_jax.config.build import options_of as options_of

_OF_BUILD = ("build_conditions", "grids_of", "load_data", "metrics_of", "options_of")


def __getattr__(name: str) -> Any:
    if name in _OF_BUILD:
        from sublim_jax.config import build

        return getattr(build, name)
    raise AttributeError(f"module 'sublim_jax.config' has no attribute {name!r}")

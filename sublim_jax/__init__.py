"""Subliminal learning in JAX: populations of teachers and students trained in one XLA program.

    import sublim_jax as sl
    config = sl.base_config("smoke", conditions=("same", "random_hidden"), m=10)
    rows = sl.run(config, seeds=2)
    sl.summarize(rows)

Names are imported when they are first used, so that reading rows and drawing figures imports no JAX.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from sublim_jax.core import compiler

compiler.limit_lapack_threads()
compiler.disable_wrong_fusion()

if TYPE_CHECKING:
    from sublim_jax import metrics as metrics
    from sublim_jax import nets as nets
    from sublim_jax import theory as theory
    from sublim_jax.api import add_grid as add_grid
    from sublim_jax.api import base_config as base_config
    from sublim_jax.api import build as build
    from sublim_jax.api import load as load
    from sublim_jax.api import load_data as load_data
    from sublim_jax.api import plot as plot
    from sublim_jax.api import run as run
    from sublim_jax.api import summarize as summarize
    from sublim_jax.audit.pair import audit_pair as audit_pair
    from sublim_jax.core import keys as keys
    from sublim_jax.engine.params import load_params as load_params
    from sublim_jax.engine.params import params as params
    from sublim_jax.engine.params import save_params as save_params
    from sublim_jax.training import inits as inits
    from sublim_jax.training import losses as losses
    from sublim_jax.training import streams as streams
    from sublim_jax.training.pair import train_pair as train_pair

    __version__: str

__all__ = [
    "__version__",
    "add_grid",
    "audit_pair",
    "base_config",
    "build",
    "inits",
    "keys",
    "load",
    "load_data",
    "load_params",
    "losses",
    "metrics",
    "nets",
    "params",
    "plot",
    "run",
    "save_params",
    "streams",
    "summarize",
    "theory",
    "train_pair",
]
_MODULES = {
    "inits": "sublim_jax.training.inits",
    "keys": "sublim_jax.core.keys",
    "losses": "sublim_jax.training.losses",
    "metrics": "sublim_jax.metrics",
    "nets": "sublim_jax.nets",
    "streams": "sublim_jax.training.streams",
    "theory": "sublim_jax.theory",
}
_HOMES = {
    "audit_pair": "sublim_jax.audit.pair",
    "load_params": "sublim_jax.engine.params",
    "params": "sublim_jax.engine.params",
    "save_params": "sublim_jax.engine.params",
    "train_pair": "sublim_jax.training.pair",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("sublim_jax")
    if name not in __all__:
        raise AttributeError(f"module 'sublim_jax' has no attribute {name!r}")
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    return getattr(importlib.import_module(_HOMES.get(name, "sublim_jax.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

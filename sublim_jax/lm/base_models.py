"""Pre-trained base models, cached on disk with the trained teachers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sublim_jax.core import trees
from sublim_jax.core.types import Params
from sublim_jax.engine import teacher_cache
from sublim_jax.engine.plan import describe_phase
from sublim_jax.engine.progress import Progress
from sublim_jax.engine.teacher_cache import TeacherCache
from sublim_jax.lm import documents, parallel
from sublim_jax.lm import training as lm_training
from sublim_jax.lm import world as w
from sublim_jax.lm.lessons import LanguageSetup
from sublim_jax.lm.training import Pretraining


def load_or_pretrain(
    lab: LanguageSetup,
    pretraining: Pretraining,
    kinds: Sequence[str],
    seeds: Sequence[int],
    folder: str | Path,
    progress: Progress,
) -> dict[tuple[str, int], Params]:
    """Return base models by (kind, seed): loaded from the cache, or pre-trained together and saved.

    Args:
        lab: the study; `world`, `net` and `root` are used.
        pretraining: training settings.
        kinds: some of `training.KINDS`.
        seeds: seed numbers.
        folder: directory of the cache.
        progress: progress display.
    """
    identity = _identity(lab, pretraining)
    origins = {(kind, seed): lm_training.base_seeds(kind, seed) for kind in kinds for seed in seeds}
    caches = {origin: TeacherCache(folder, {**identity, "order": origin[1]}) for origin in origins.values()}
    stored = {origin: cache.load((origin[0],)) for origin, cache in caches.items()}
    missing = [origin for origin, params in stored.items() if params is None]
    trained = lm_training.pretrain(lab.world, lab.net, pretraining, lab.root, missing) if missing else []
    progress.count("bases", len(missing) * pretraining.steps)
    for origin, params in zip(missing, trained, strict=True):
        stored[origin] = stacked = jax.tree.map(lambda leaf: leaf[None], dict(params))
        caches[origin].save((origin[0],), stacked)
    return {name: trees.index(dict(stored[origin] or {}), 0) for name, origin in origins.items()}


def _identity(lab: LanguageSetup, pretraining: Pretraining) -> dict[str, Any]:
    """Plain values that decide the weights of all bases."""
    return {
        "phase": describe_phase(lm_training.pretraining_phase(lab.net, pretraining)),
        "world": str(lab.world),
        "how": str(pretraining),
        **teacher_cache.machine_identity(*(module.__name__ for module in (w, documents, lm_training, parallel))),
        "precision": getattr(jax.config, "jax_default_matmul_precision", None),  # JAX declares it at run time
        "root": np.asarray(jax.random.key_data(lab.root)).tolist(),
    }

"""Pre-trained base models, cached on disk with the trained teachers."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from sublim_jax.core.types import Params
from sublim_jax.engine import teacher_cache
from sublim_jax.engine.plan import describe_phase
from sublim_jax.engine.progress import Progress
from sublim_jax.lm import parallel
from sublim_jax.lm import training as lm_training
from sublim_jax.lm import world as w
from sublim_jax.lm.lessons import LanguageSetup
from sublim_jax.lm.training import Pretraining


def load_or_pretrain(
    lab: LanguageSetup,
    pretraining: Pretraining,
    kinds: Sequence[str],
    seeds: Sequence[int],
    place: str | Path,
    watch: Progress,
) -> dict[tuple[str, int], Params]:
    """Return base models by (kind, seed): loaded from the cache, or pre-trained together and saved.

    Args:
        lab: the study; `world`, `net` and `root` are used.
        pretraining: training settings.
        kinds: some of `training.KINDS`.
        seeds: seed numbers.
        place: directory of the cache.
        watch: progress display.
    """
    phase = lm_training.pretraining_phase(lab.world, lab.net, pretraining)
    device = jax.local_devices()[0]
    identity = {"phase": describe_phase(phase), "world": str(lab.world), "how": str(pretraining)}
    identity |= {"device": f"{device.platform} {device.device_kind}", "jax": jax.__version__}
    identity |= {"code": teacher_cache.source_digest(*(module.__name__ for module in (w, lm_training, parallel)))}
    identity |= {"precision": getattr(jax.config, "jax_default_matmul_precision", None)}  # JAX declares it at run time
    identity |= {"root": np.asarray(jax.random.key_data(lab.root)).tolist()}
    origins = {(kind, seed): lm_training.base_seeds(kind, seed) for kind in kinds for seed in seeds}
    caches = {
        origin: teacher_cache.TeacherCache(place, {**identity, "order": origin[1]}) for origin in origins.values()
    }
    cached = {origin: cache.load((origin[0],)) for origin, cache in caches.items()}
    missing = [origin for origin, params in cached.items() if params is None]
    trained = lm_training.pretrain(lab.world, lab.net, pretraining, lab.root, missing) if missing else []
    watch.count("bases", len(missing) * pretraining.steps)
    watch.advance(float(len(missing) * pretraining.steps))
    watch.skip(float((len(origins) - len(missing)) * pretraining.steps))
    for origin, params in zip(missing, trained, strict=True):
        caches[origin].save((origin[0],), jax.tree.map(lambda leaf: leaf[None], dict(params)))
    fresh = dict(zip(missing, trained, strict=True))
    bases = {}
    for name, origin in origins.items():
        params = cached[origin]
        bases[name] = fresh[origin] if params is None else jax.tree.map(lambda leaf: leaf[0], dict(params))
    return bases

"""Pre-trained bases, kept on the shelf where trained teachers are kept too."""

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
    """Bases by (kind, seed): read back where they are kept, else pre-trained together and kept."""
    phase = lm_training.pretraining_phase(lab.world, lab.net, pretraining)
    device = jax.local_devices()[0]
    who = {"phase": describe_phase(phase), "world": str(lab.world), "how": str(pretraining)}
    who |= {"device": f"{device.platform} {device.device_kind}", "jax": jax.__version__}
    who |= {"code": teacher_cache.source_digest(*(module.__name__ for module in (w, lm_training, parallel)))}
    who |= {"precision": getattr(jax.config, "jax_default_matmul_precision", None)}  # JAX declares it at run time
    who |= {"root": np.asarray(jax.random.key_data(lab.root)).tolist()}
    origins = {(kind, seed): lm_training.base_seeds(kind, seed) for kind in kinds for seed in seeds}
    shelves = {origin: teacher_cache.TeacherCache(place, {**who, "order": origin[1]}) for origin in origins.values()}
    kept = {origin: one.load((origin[0],)) for origin, one in shelves.items()}
    missing = [origin for origin, params in kept.items() if params is None]
    made = lm_training.pretrain(lab.world, lab.net, pretraining, lab.root, missing) if missing else []
    watch.count("bases", len(missing) * pretraining.steps)
    watch.advance(float(len(missing) * pretraining.steps))
    watch.skip(float((len(origins) - len(missing)) * pretraining.steps))
    for origin, params in zip(missing, made, strict=True):
        shelves[origin].save((origin[0],), jax.tree.map(lambda leaf: leaf[None], dict(params)))
    fresh = dict(zip(missing, made, strict=True))
    found = {}
    for one, origin in origins.items():
        params = kept[origin]
        found[one] = fresh[origin] if params is None else jax.tree.map(lambda leaf: leaf[0], dict(params))
    return found

"""Pre-trained bases, kept on the shelf where trained teachers are kept too."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from sublim_jax.core.types import Params
from sublim_jax.engine import teacher_cache
from sublim_jax.engine.plan import describe_phase
from sublim_jax.engine.progress import Watch
from sublim_jax.lm import parallel, training
from sublim_jax.lm import world as w
from sublim_jax.lm.lessons import Lab
from sublim_jax.lm.training import Pretraining


def bases_of(
    lab: Lab, pretraining: Pretraining, kinds: Sequence[str], seeds: Sequence[int], place: str | Path, watch: Watch
) -> dict[tuple[str, int], Params]:
    """Bases by (kind, seed): read back where they are kept, else pre-trained together and kept."""
    phase = training.pretraining_phase(lab.world, lab.net, pretraining)
    device = jax.local_devices()[0]
    who = {"phase": describe_phase(phase), "world": str(lab.world), "how": str(pretraining)}
    who |= {"device": f"{device.platform} {device.device_kind}", "jax": jax.__version__}
    who |= {"code": teacher_cache.code(*(module.__name__ for module in (w, training, parallel)))}
    who |= {"precision": getattr(jax.config, "jax_default_matmul_precision", None)}  # JAX declares it at run time
    who |= {"root": np.asarray(jax.random.key_data(lab.root)).tolist()}
    origins = {(kind, seed): training.origin_of(kind, seed) for kind in kinds for seed in seeds}
    shelves = {origin: teacher_cache.Shelf(place, {**who, "order": origin[1]}) for origin in origins.values()}
    kept = {origin: one.take((origin[0],)) for origin, one in shelves.items()}
    missing = [origin for origin, params in kept.items() if params is None]
    made = training.pretrained(lab.world, lab.net, pretraining, lab.root, missing) if missing else []
    watch.count("bases", len(missing) * pretraining.steps)
    watch.advance(float(len(missing) * pretraining.steps))
    watch.skip(float((len(origins) - len(missing)) * pretraining.steps))
    for origin, params in zip(missing, made, strict=True):
        shelves[origin].give((origin[0],), jax.tree.map(lambda leaf: leaf[None], dict(params)))
    fresh = dict(zip(missing, made, strict=True))
    found = {}
    for one, origin in origins.items():
        params = kept[origin]
        found[one] = fresh[origin] if params is None else jax.tree.map(lambda leaf: leaf[0], dict(params))
    return found

"""How a sweep is computed, and the exception that ends it early."""

import dataclasses


class Interrupted(Exception):
    """Someone asked to stop; everything up to the last finished interval is saved."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How it is computed; none of these changes a draw, and results only by float rounding (precision: see below).

    chunk      seeds at once; 0 = as many as `memory_gb` allows
    every      steps in one compiled call; after each the run saves, reports progress and may stop
    devices    local devices over which the seeds are spread; 0 = all
    memory_gb  what the process may take on CPU, or a device of another kind, by a generous estimate; a sweep is cut
               into parts that fit
    precision  of float32 matrix products; 'highest' is float32 everywhere, others may be bfloat16 or TF32 on an
               accelerator, so results depend on it
    teachers   folder in which trained teachers are kept for every sweep that needs the same ones; '' = the work folder
    """

    seed_batch: int = 0
    save_every: int = 100
    devices: int = 0
    memory_gb: float = 4.0
    precision: str = "highest"
    teachers: str = ""

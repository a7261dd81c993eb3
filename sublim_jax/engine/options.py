"""How a sweep is computed, and the exception that ends it early."""

import dataclasses


class Interrupted(Exception):
    """The run was asked to stop; everything up to the last finished interval is saved."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a sweep is computed. No option changes a draw; only `precision` changes results by more than rounding.

    Attributes:
        seed_batch: Seeds trained at once; 0 = as many as `memory_gb` allows.
        save_every: Steps in one compiled call; after each call the run saves, reports progress and may stop.
        devices: Local devices over which seeds are spread; 0 = all.
        memory_gb: Memory in GB of the process on CPU, or of one device elsewhere, by a generous estimate; a sweep is
            split into parts that fit.
        precision: Precision of float32 matrix products; 'highest' is float32 everywhere, 'high' and 'default' may be
            bfloat16 or TF32 on an accelerator.
        teachers: Directory of trained teachers, shared by all sweeps; '' = the work directory.
        keep_params: Whether the final parameters of every student are stored in the work directory; see
            `engine.params`.
    """

    seed_batch: int = 0
    save_every: int = 100
    devices: int = 0
    memory_gb: float = 4.0
    precision: str = "highest"
    teachers: str = ""
    keep_params: bool = False

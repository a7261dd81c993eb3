"""The authors' loop of infomorphic networks, as it is: python infomorphic_authors.py CHECKOUT MODEL UNITS STEPS.

Prints seconds of a step and peak memory. Needs their packages (PyTorch, torchvision, Hydra, scikit-learn), their
lattices in the folder, as `moebius.pkl`, and MNIST in `../datasets`. Imports nothing of this package.
"""

import itertools
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class First:
    """The first batches of a loader."""

    def __init__(self, loader: Any, steps: int) -> None:
        self.loader, self.steps = loader, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.loader, self.steps)


def peak_gb() -> float:
    """The largest memory of this process; on Linux without that of its parent, which `getrusage` can include."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def main(checkout: str, model: str, units: str, steps: str) -> None:
    paper = Path(checkout, "paper_trivariate")
    sys.path[:0] = [str(paper), checkout]
    import base_model
    from omegaconf import OmegaConf

    files = ("base_config", f"models/infomorphic_{model}", f"goals/infomorphic_{model}/naive")
    dataset = OmegaConf.load(paper / "conf" / "dataset" / "mnist.yaml")
    given = {"dataset": dataset, "layer_params": {"hidden_layer1": {"output_size": int(units)}}}
    config = OmegaConf.merge(*(OmegaConf.load(paper / "conf" / f"{name}.yaml") for name in files), given)
    loader = base_model.ut.init_dataloaders(config.dataset, config.exp_params)[0]
    kind = getattr(base_model, config.exp_params.model_class)
    net = kind(config.layer_params, config.binning_params, config.optim_params, "cpu")
    base_model.trainer(First(loader, 2), net.optimizers, net, "cpu", None)  # warms up
    begun = time.perf_counter()
    base_model.trainer(First(loader, int(steps)), net.optimizers, net, "cpu", None)
    print(json.dumps({"seconds": (time.perf_counter() - begun) / int(steps), "peak_rss_gb": peak_gb()}))


if __name__ == "__main__":
    main(*sys.argv[1:])

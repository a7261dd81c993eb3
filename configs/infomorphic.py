"""Infomorphic networks on MNIST: goals x widths x 10 seeds. Schneider et al., ICLR 2025, Figure 4.

    python -m sublim_jax.main --config=configs/infomorphic.py --config.preset=laptop

Laptop: 55 networks, 45 of 100 hidden units and 5 of 200 with 100 lateral inputs each. Without the latter, 42 minutes on
2 CPU cores with other work beside them. Test accuracies after 100 epochs (published): context heuristic 0.925 (0.925),
trivariate heuristic 0.934 (0.934), trivariate optimized 0.952 (0.952), backpropagation with the same unit 0.954
(0.954), read-out alone 0.919 (0.919). Kept in experiments/infomorphic/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import grid, infomorphic_config
from sublim_jax.core.nested import flatten

WIDTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
GOALS = {
    "context_lateral": ("heuristic", "optimized"),
    "context": ("heuristic", "optimized"),
    "lateral": ("heuristic", "optimized"),
    "feedback": ("optimized",),
    "sparse": ("optimized",),
    "random_projection": ("heuristic",),  # not trained, so the goal has no effect
    "backprop": ("heuristic",),
}
LATERAL_INPUTS = 100  # of a unit, in the published networks with feedback and with a sparse lateral layer
BACKPROP = {"lr": (1e-3,), "readout_lr": (1e-3,), "decay": (0.0,), "readout_decay": (0.0,)}


def get_config() -> ConfigDict:
    config = infomorphic_config()
    config.name = config.figure = "infomorphic"
    config.seeds = 10
    config.run.memory_gb = 6.0  # 2,000 units are measured on 12,000 images
    grids = {model: {"model": (model,), "goal": goals, "units": WIDTHS} for model, goals in GOALS.items()}
    grids["backprop"] |= BACKPROP
    grids["sparse"] |= {"model": ("context_lateral",), "units": WIDTHS[WIDTHS.index(200) :]}
    for name in ("sparse", "feedback"):
        grids[name]["lateral_inputs"] = (LATERAL_INPUTS,)
    grids["readout"] = {"model": ("readout",)}
    for name, axes in grids.items():
        grid.add_grid(config, name, {f"infomorphic.{field}": values for field, values in axes.items()})
    widths = {f"arms.{name}.infomorphic.units": (200 if name == "sparse" else 100,) for name in GOALS}
    grid.add_preset(config, "laptop", {"seeds": 5, **widths})
    tiny = {**dict.fromkeys(widths, (8,)), "arms.sparse.infomorphic.lateral_inputs": (4,)}
    grid.add_preset(config, "smoke", {**flatten(config.presets.smoke.to_dict()), **tiny})
    return config

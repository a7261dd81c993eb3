"""Predictors of transfer, calibrated on complete sweeps, and the verdict they give. Imports no JAX."""

import functools
import importlib.resources
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sublim_jax.core.errors import ConfigError

FILE = "calibration.json"
# In order of preference; a model is used where all its inputs are known.
MODELS = ("coverage and heads", "coverage")


class Verdict(NamedTuple):
    """Whether transfer of the trait is expected, and how reliable that prediction is.

    Attributes:
        passes: True, False, or None where no model applies.
        probability: That more than half of the trait is transferred, in the sweeps of the calibration; NaN without a
            verdict.
        threshold: Least probability at which `passes` is True.
        model: Name of the calibrated model.
        auroc: Of that model, on held-out conditions and seeds.
        provisional: Whether the calibration is marked as not final.
    """

    passes: bool | None
    probability: float
    threshold: float
    model: str
    auroc: float
    provisional: bool

    def __str__(self) -> str:
        if self.passes is None:
            return "none: the loss has no gradient here, or the coverage is not defined"
        says = "the trait is expected to pass" if self.passes else "the trait is not expected to pass"
        worth = f"AUROC of {self.model} {self.auroc:.3f}" + (", provisional" if self.provisional else "")
        return f"{says}: probability {self.probability:.2f}, threshold {self.threshold:.2f} ({worth})"


def load(path: str | Path | None = None) -> dict[str, Any]:
    """The calibration in a file, by default the one in the package; raises `ConfigError` where it cannot be read."""
    if path is None:
        return _shipped()
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"calibration={path}: cannot be read ({' '.join(str(error).split())})") from error


@functools.cache
def _shipped() -> dict[str, Any]:
    return json.loads((importlib.resources.files("sublim_jax.audit") / FILE).read_text())


def probability(model: Mapping[str, Any], values: Any) -> np.ndarray:
    """1 / (1 + exp(-(intercept + sum of weight * value))) of one model of a calibration; values by name, any shape."""
    score = model["intercept"] + sum(model["weights"][name] * np.asarray(values[name]) for name in model["weights"])
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(score, np.float64))))


def verdict(values: Mapping[str, float], calibration: Mapping[str, Any] | None = None) -> Verdict:
    """The verdict for `coverage`, `compatibility_aux` and `compatibility_class`; NaN or missing = unknown."""
    calibration = _shipped() if calibration is None else calibration
    provisional = bool(calibration["provisional"])
    for name in MODELS:
        model = calibration["models"][name]
        if all(np.isfinite(values.get(one, np.nan)) for one in model["weights"]):
            chance, threshold = float(probability(model, values)), float(model["threshold"])
            return Verdict(chance >= threshold, chance, threshold, name, float(model["auroc"][0]), provisional)
    return Verdict(None, float("nan"), float("nan"), "", float("nan"), provisional)

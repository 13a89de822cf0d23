"""Evaluation: how good a model is, for whom, how sure that is, and the report of it."""

from typing import TYPE_CHECKING

from lore.exports import lazy_exports

if TYPE_CHECKING:
    from lore.evaluation.calibration import probabilities as probabilities
    from lore.evaluation.evaluator import Result as Result
    from lore.evaluation.metrics import Accuracy as Accuracy
    from lore.evaluation.metrics import Gain as Gain
    from lore.evaluation.metrics import accuracy as accuracy
    from lore.evaluation.metrics import gain as gain
    from lore.evaluation.noise import learn_noise as learn_noise
    from lore.evaluation.significance import verdicts as verdicts
    from lore.evaluation.sweep import run_sweep as run_sweep

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Accuracy": "metrics",
        "Gain": "metrics",
        "Result": "evaluator",
        "accuracy": "metrics",
        "gain": "metrics",
        "learn_noise": "noise",
        "probabilities": "calibration",
        "run_sweep": "sweep",
        "verdicts": "significance",
    },
)

"""LoRe learns what each user prefers: personal reward models from comparisons."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from lore.exports import lazy_exports

if TYPE_CHECKING:
    from lore.data.formats import load
    from lore.data.preferences import Preferences
    from lore.embedding import Embeddings, Encoder, encode
    from lore.errors import ConvergenceWarning, LoreError
    from lore.evaluation.evaluator import Result
    from lore.evaluation.metrics import Accuracy, accuracy
    from lore.evaluation.sweep import sweep
    from lore.fitting.active import Question, next_comparison
    from lore.fitting.basis import RewardBasis
    from lore.fitting.config import Fit, FitConfig
    from lore.fitting.fit import fit_basis
    from lore.fitting.personalize import UserWeights, fit_weights
    from lore.pairs.splits import Split, split
    from lore.pairs.table import Pairs
    from lore.runs.artifacts import Run
    from lore.runs.rewards import PersonalRewards, trl_reward

__version__ = version("lore-reward")

__all__ = [
    "Accuracy",
    "ConvergenceWarning",
    "Embeddings",
    "Encoder",
    "Fit",
    "FitConfig",
    "LoreError",
    "Pairs",
    "PersonalRewards",
    "Preferences",
    "Question",
    "Result",
    "RewardBasis",
    "Run",
    "Split",
    "UserWeights",
    "accuracy",
    "encode",
    "fit_basis",
    "fit_weights",
    "load",
    "next_comparison",
    "split",
    "sweep",
    "trl_reward",
]

# Imported when they are first used, so that `lore --help` needs no torch.
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Accuracy": "evaluation.metrics",
        "ConvergenceWarning": "errors",
        "Embeddings": "embedding",
        "Encoder": "embedding",
        "Fit": "fitting.config",
        "FitConfig": "fitting.config",
        "LoreError": "errors",
        "Pairs": "pairs",
        "PersonalRewards": "runs.rewards",
        "Preferences": "data.preferences",
        "Question": "fitting.active",
        "Result": "evaluation.evaluator",
        "RewardBasis": "fitting.basis",
        "Run": "runs.artifacts",
        "Split": "pairs",
        "UserWeights": "fitting.personalize",
        "accuracy": "evaluation.metrics",
        "encode": "embedding",
        "fit_basis": "fitting.fit",
        "fit_weights": "fitting.personalize",
        "load": "data.formats",
        "next_comparison": "fitting.active",
        "split": "pairs",
        "sweep": "evaluation.sweep",
        "trl_reward": "runs.rewards",
    },
)

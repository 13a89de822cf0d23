"""LoRe learns what each person prefers: personal reward models from comparisons."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lore.ask import Question, next_comparison
    from lore.basis import RewardBasis
    from lore.embedding import Embeddings, Encoder, encode
    from lore.errors import ConvergenceWarning, LoreError
    from lore.evaluate import Accuracy, Result, accuracy, sweep
    from lore.fit import Fit, FitConfig, fit_basis
    from lore.pairs import Pairs, Split, split
    from lore.personalize import UserWeights, fit_weights
    from lore.preferences import Preferences
    from lore.rewards import PersonalRewards, trl_reward
    from lore.run import Run
    from lore.sources import load

__version__ = version("lore-reward")

# Every public name and its module. They are imported when they are first used, so that `lore --help` needs no torch.
_HOMES = {
    "Accuracy": "evaluate",
    "ConvergenceWarning": "errors",
    "Embeddings": "embedding",
    "Encoder": "embedding",
    "Fit": "fit",
    "FitConfig": "fit",
    "LoreError": "errors",
    "Pairs": "pairs",
    "PersonalRewards": "rewards",
    "Preferences": "preferences",
    "Question": "ask",
    "Result": "evaluate",
    "RewardBasis": "basis",
    "Run": "run",
    "Split": "pairs",
    "UserWeights": "personalize",
    "accuracy": "evaluate",
    "encode": "embedding",
    "fit_basis": "fit",
    "fit_weights": "personalize",
    "load": "sources",
    "next_comparison": "ask",
    "split": "pairs",
    "sweep": "evaluate",
    "trl_reward": "rewards",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lore' has no attribute {name!r}")
    return getattr(import_module(f"lore.{_HOMES[name]}"), name)

"""A RUN folder, and every job on it."""

from typing import TYPE_CHECKING

from lore.exports import lazy_exports

if TYPE_CHECKING:
    from lore.runs.artifacts import Run as Run
    from lore.runs.config import TrainConfig as TrainConfig
    from lore.runs.demo import run_demo as run_demo
    from lore.runs.questionnaire import Questionnaire as Questionnaire
    from lore.runs.rewards import PersonalRewards as PersonalRewards
    from lore.runs.rewards import trl_reward as trl_reward
    from lore.runs.rewards import verl_score as verl_score
    from lore.runs.score import score_file as score_file
    from lore.runs.training import train as train

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "PersonalRewards": "rewards",
        "Questionnaire": "questionnaire",
        "Run": "artifacts",
        "TrainConfig": "config",
        "run_demo": "demo",
        "score_file": "score",
        "train": "training",
        "trl_reward": "rewards",
        "verl_score": "rewards",
    },
)

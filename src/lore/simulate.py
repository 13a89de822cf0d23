"""Synthetic people: mixtures of scorers who prefer the best of a prompt's responses to the worst.

As in the PersonalLLM experiment (Bose et al. 2025, section 5; Zollo et al. 2024): a person's weights over the scorers
are drawn from a Dirichlet distribution, and a person's reward is the weighted sum of the scores.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lore.errors import ConfigError, DataError
from lore.preferences import Origin, Place, Preferences, PreferencesBuilder

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """People drawn from a Dirichlet distribution.

    Attributes:
        users: how many people.
        concentration: Dirichlet parameter of every scorer; small values give people who care about one thing.
        comparisons: prompts that each person judges.
        seed: of people and prompts.
        prefix: ids are the prefix and a number.
    """

    users: int
    concentration: float = 0.1
    comparisons: int = 30
    seed: int = 0
    prefix: str = "user"

    def __post_init__(self) -> None:
        if self.users < 1 or self.comparisons < 1 or not self.concentration > 0:
            raise ConfigError(
                f"`users` and `comparisons` must be 1 or more and `concentration` positive, got {self.users}, "
                f"{self.comparisons} and {self.concentration}"
            )


def draw_weights(users: int, scorers: int, concentration: float, rng: np.random.Generator) -> Scores:
    """People's weights over the scorers, `[users, scorers]`, each row on the simplex."""
    return rng.dirichlet(np.full(scorers, concentration), size=users)


def simulate(scored: Preferences, population: Population) -> Preferences:
    """Comparisons of simulated people.

    Args:
        scored: ratings in which every user is a scorer, as read from PersonalLLM rows.
        population: who to simulate.

    Returns:
        A table of comparisons; the scores are standardized for each scorer before they are mixed.

    Raises:
        DataError: `scored` holds no ratings, or fewer prompts with two scored responses than comparisons are asked.
    """
    rng = np.random.default_rng(population.seed)
    rows, scores = _scores(scored)
    prompts = [np.flatnonzero(scored.row_prompt[rows] == prompt) for prompt in range(len(scored.prompts))]
    prompts = [responses for responses in prompts if len(responses) > 1]
    if len(prompts) < population.comparisons:
        raise DataError(
            f"{len(prompts)} prompts with two or more scored responses, but each person is to judge "
            f"{population.comparisons}; lower `comparisons` or add prompts"
        )
    weights = draw_weights(population.users, scores.shape[1], population.concentration, rng)
    builder = PreferencesBuilder(Origin())
    builder.origin.open("simulated", "row")
    for person, mixture in enumerate(weights):
        rewards = scores @ mixture
        for judged in np.sort(rng.choice(len(prompts), population.comparisons, replace=False)):
            responses = prompts[judged]
            best, worst = (responses[choose(rewards[responses])] for choose in (np.argmax, np.argmin))
            place = builder.origin.at(len(builder.origin) + 1)
            _compare(builder, scored, f"{population.prefix}-{person:04d}", (rows[best], rows[worst]), place)
    return builder.build()


def _compare(builder: PreferencesBuilder, scored: Preferences, user: str, rows: tuple[Any, Any], place: Place) -> None:
    chosen, rejected = (builder.row(*scored.conversation(int(row))) for row in rows)
    builder.compare(user, chosen, rejected, place)


def _scores(scored: Preferences) -> tuple[NDArray[np.int64], Scores]:
    """Rows that every scorer scored, and their standardized scores `[rows, scorers]`."""
    if scored.ratings is None:
        raise DataError("people are simulated from scored responses; give PersonalLLM rows")
    table = np.full((scored.rows, len(scored.users)), np.nan)
    table[scored.ratings.row, scored.ratings.user] = scored.ratings.rating
    rows = np.flatnonzero(np.isfinite(table).all(axis=1))
    scores = table[rows]
    spread = scores.std(axis=0)
    return rows, (scores - scores.mean(axis=0)) / np.where(spread > 0, spread, 1)

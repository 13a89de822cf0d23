"""Synthetic users: mixtures of scorers who prefer the best of a prompt's responses to the worst.

As in the PersonalLLM experiment (Bose et al. 2025, section 5; Zollo et al. 2024): a user's weights over the scorers
are drawn from a Dirichlet distribution, and a user's reward is the weighted sum of the scores.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lore.data.builder import PreferencesBuilder
from lore.data.issues import RowRef, SourceLocations
from lore.data.preferences import Preferences
from lore.errors import ConfigError, DataError, ShapeError

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """Users drawn from a Dirichlet distribution.

    Attributes:
        users: how many users.
        concentration: Dirichlet parameter of every scorer; small values give users who care about one thing.
        comparisons: prompts that each user judges.
        seed: of users and prompts.
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
    """Users' weights over the scorers, `[users, scorers]`, each row on the simplex."""
    return rng.dirichlet(np.full(scorers, concentration), size=users)


def simulate(scored: Preferences, population: Population) -> Preferences:
    """Comparisons of simulated users.

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
            f"{len(prompts)} prompts with two or more scored responses, but each user is to judge "
            f"{population.comparisons}; lower `comparisons` or add prompts"
        )
    weights = draw_weights(population.users, scores.shape[1], population.concentration, rng)
    builder = PreferencesBuilder(SourceLocations())
    builder.origin.open("simulated", "row")
    for user, mixture in enumerate(weights):
        rewards = scores @ mixture
        for prompt in np.sort(rng.choice(len(prompts), population.comparisons, replace=False)):
            responses = prompts[prompt]
            best, worst = (responses[choose(rewards[responses])] for choose in (np.argmax, np.argmin))
            row_ref = builder.origin.add_row(len(builder.origin) + 1)
            _compare(builder, scored, f"{population.prefix}-{user:04d}", (rows[best], rows[worst]), row_ref)
    return builder.build()


def _compare(
    builder: PreferencesBuilder, scored: Preferences, user: str, rows: tuple[Any, Any], row_ref: RowRef
) -> None:
    chosen, rejected = (builder.row(*scored.conversation(int(row))) for row in rows)
    builder.compare(user, chosen, rejected, row_ref)


def _scores(scored: Preferences) -> tuple[NDArray[np.int64], Scores]:
    """Rows that every scorer scored, and their standardized scores `[rows, scorers]`."""
    if scored.ratings is None:
        raise DataError("users are simulated from scored responses; give PersonalLLM rows")
    table = np.full((scored.rows, len(scored.users)), np.nan)
    table[scored.ratings.row, scored.ratings.user] = scored.ratings.rating
    rows = np.flatnonzero(np.isfinite(table).all(axis=1))
    scores = table[rows]
    spread = scores.std(axis=0)
    return rows, (scores - scores.mean(axis=0)) / np.where(spread > 0, spread, 1)


class SimulatedChoices:
    """Chosen minus rejected embeddings `[users, prompts, dim]` that are computed where they are looked at.

    Stands where a tensor of that shape is documented: it is indexed, iterated and given to torch functions like one.
    Whatever asks for all of it forms the whole array.

    Attributes:
        prompt: which prompt each judged, `[users, prompts]`.
        best: the chosen response to it, `[users, prompts]`.
        worst: the rejected response to it, `[users, prompts]`.
        shape: `[users, prompts, dim]`.
    """

    def __init__(self, embeddings: Tensor, prompt: Tensor, best: Tensor, worst: Tensor) -> None:
        self._embeddings, self.prompt, self.best, self.worst = embeddings, prompt, best, worst
        self.shape = torch.Size([*best.shape, embeddings.shape[-1]])

    def __len__(self) -> int:
        return len(self.best)

    def __iter__(self) -> Iterator[Any]:
        return (self[user] for user in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        """Index like a tensor; only what is selected is computed, and nothing yet for a selection of users."""
        first, *rest = index if isinstance(index, tuple) else (index,)
        if any(part is None or part is Ellipsis for part in (first, *rest)):
            return self.dense()[index]
        index_of_prompts = (first, *rest[:1])
        part = SimulatedChoices(
            self._embeddings, self.prompt[index_of_prompts], self.best[index_of_prompts], self.worst[index_of_prompts]
        )
        if not rest and part.prompt.dim() == 2:
            return part
        values = part.dense()
        return values[..., rest[1]] if len(rest) > 1 else values

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the embeddings."""
        return self._embeddings.dtype

    @property
    def device(self) -> torch.device:
        """Device of the embeddings."""
        return self._embeddings.device

    @property
    def ndim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    def dim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or one of its numbers."""
        return self.shape if dim is None else self.shape[dim]

    def dense(self) -> Tensor:
        """Return the whole tensor."""
        return self._embeddings[self.prompt, self.best] - self._embeddings[self.prompt, self.worst]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.dense(), name)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], _: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return function(*map(_dense, args), **{name: _dense(value) for name, value in (kwargs or {}).items()})


def _dense(value: Any) -> Any:
    """Return a value, or a list or tuple of values, with tensors in place of simulated choices."""
    if isinstance(value, list | tuple):
        return type(value)(map(_dense, value))
    return value.dense() if isinstance(value, SimulatedChoices) else value


def _operator(name: str) -> Callable[..., Any]:
    def operate(choices: SimulatedChoices, *others: Any) -> Any:
        return getattr(choices.dense(), name)(*map(_dense, others))

    return operate


for _name in ("neg", "abs", "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "matmul", "eq", "ne", "lt", "gt"):
    setattr(SimulatedChoices, f"__{_name}__", _operator(f"__{_name}__"))


def best_against_worst(
    scores: Scores, embeddings: Tensor, weights: Scores, prompts: NDArray[np.int64] | None = None
) -> SimulatedChoices:
    """Return what users choose: of a prompt's responses the best against the worst, ties to the first.

    Args:
        scores: `[prompts, responses, scorers]`; a response that lacks one (NaN) is not chosen from.
        embeddings: `[prompts, responses, dim]`.
        weights: of users over the scorers, `[users, scorers]`.
        prompts: which ones each user judges, `[users, judged]`; all by default.

    Raises:
        DataError: every response to some prompt lacks a score.
        ShapeError: scores and embeddings do not fit together.
    """
    if scores.ndim != 3 or scores.shape[:2] != embeddings.shape[:2]:
        raise ShapeError(
            "scores must be [prompts, responses, scorers] and embeddings [prompts, responses, dim], got "
            f"{scores.shape} and {tuple(embeddings.shape)}"
        )
    unscored = np.isnan(scores.sum(axis=2))
    nothing = np.flatnonzero(unscored.sum(axis=1) == scores.shape[1])
    if len(nothing):
        raise DataError(f"prompt {nothing[0]}: every response lacks a score; leave it out")
    every = torch.arange(len(scores)).expand(len(weights), -1)
    prompt = every if prompts is None else torch.from_numpy(np.ascontiguousarray(prompts))
    best, worst = np.empty((2, *prompt.shape), dtype=np.int64)
    for user, mixture in enumerate(weights):
        rows = slice(None) if prompts is None else prompts[user]
        rewards = scores[rows] @ mixture
        best[user] = np.where(unscored[rows], -np.inf, rewards).argmax(axis=1)
        worst[user] = np.where(unscored[rows], np.inf, rewards).argmin(axis=1)
    return SimulatedChoices(embeddings, prompt, torch.from_numpy(best), torch.from_numpy(worst))

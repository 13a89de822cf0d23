"""The cost of a fit before it begins: reads of the embeddings, memory and time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lore.fitting.config import RANKS, FitConfig
from lore.pairs.table import COPIED, Pairs
from lore.solvers.objective import working_dtype

# Numbers that are read from memory, or as long as it takes to read them, in one evaluation of objective and gradient;
# by least squares on 60 shapes of up to a million pairs (benchmarks/scaling.py measures how well that holds).
_TABLE, _TABLE_COLUMN = 2.0, 0.35  # for each number of the embeddings; for each column more
_PAIR, _PAIR_COLUMN = 210.0, 150.0  # for each pair
_SOLVED_PAIR, _SOLVED_PAIR_COLUMN = 470.0, 100.0  # for each pair where users' weights are solved
_USER, _USER_COLUMN = 7_300.0, 1_600.0  # for each user there
_CALL, _SOLVED_CALL = 5e5, 1e7  # for each evaluation

# Evaluations of typical fits; data decide, by a factor of two or so.
_DESCENT, _POOLED_DESCENT, _BEGUN = 45, 10, 45
_POOLED_PATH = 110  # up to nine strengths on three folds of two thirds of the pairs, each warm from the last
_CANDIDATES = 100  # six or so strengths on three folds
_MEMORY = 26  # bases that a descent keeps
_PAIR_BYTES = 64  # of the indices, margins and slopes of a pair
_PAIR_COLUMN_BYTES = (
    40  # of a pair in coordinates: once in the working precision, padded and in float64 for the weights
)
_TELLING = 10**6  # numbers of embeddings from which a read says more than nothing


@dataclass(frozen=True)
class Cost:
    """A prediction of what some fits will take, within a factor of two or so.

    Attributes:
        reads: of the embeddings, each as long as a product with one vector.
        numbers: how many numbers one read is of.
        bytes: of memory beyond the pairs themselves.
    """

    reads: float
    numbers: int
    bytes: int

    def seconds(self) -> float:
        """Return the time, by the speed at which this machine reads 64 MB now."""
        table, direction = torch.ones(8_192, 2_048), torch.ones(2_048)
        fastest = min(_timed(table, direction) for _ in range(3))
        return self.reads * self.numbers * fastest / table.numel()

    def __str__(self) -> str:
        text = f"about {_seconds(self.seconds())}, {_size(self.bytes)}"
        if self.numbers < _TELLING:
            return text
        return f"{text}, as long as {self.reads:,.0f} reads of the embeddings"


def predicted(pairs: Pairs, configs: Sequence[FitConfig]) -> Cost:
    """Predict what `fit_bases` will take for some pairs and configurations of the simplex family."""
    configs = [replace(config, rank=rank) for config in configs for rank in _ranks(config, pairs.dim)]
    table = pairs.vectors.numel()
    numbers = sum(_numbers(pairs, config) for config in configs if config.fixed_rank > 0)
    automatic = [config for config in configs if "auto" in (config.strength, config.weight_strength)]
    if automatic:
        numbers += _POOLED_PATH * evaluation(pairs, 1)
    itemsize = working_dtype(pairs.vectors.dtype).itemsize
    held = table * pairs.vectors.element_size()
    copies = (4 if automatic else 1) * (held if held <= COPIED else 0)
    columns = max((config.fixed_rank * config.starts(len(pairs)) for config in configs), default=1)
    pair_bytes = len(pairs) * (_PAIR_BYTES + _PAIR_COLUMN_BYTES * columns) + _MEMORY * columns * pairs.dim * itemsize
    return Cost(numbers / max(table, 1), table, copies + pair_bytes)


def _ranks(config: FitConfig, dim: int) -> list[int]:
    """Return the ranks that a configuration fits, at most."""
    return [1, *(rank for rank in RANKS if rank <= dim)] if config.rank == "auto" else [config.rank]


def _numbers(pairs: Pairs, config: FitConfig) -> float:
    """Return how many numbers one fit reads."""
    if config.rank == 1:
        return _POOLED_DESCENT * evaluation(pairs, 1)
    starts = config.starts(len(pairs))
    evaluations = _DESCENT + (_BEGUN * starts if starts > 1 else 0)
    if "auto" in (config.strength, config.weight_strength):
        evaluations += _CANDIDATES
    return evaluations * evaluation(pairs, config.fixed_rank)


def evaluation(pairs: Pairs, rank: int) -> float:
    """Numbers read in one evaluation of objective and gradient, everything that it costs expressed in these."""
    numbers = pairs.vectors.numel() * (_TABLE + _TABLE_COLUMN * rank) + len(pairs) * (_PAIR + _PAIR_COLUMN * rank)
    if rank == 1:
        return numbers + _CALL
    solved = len(pairs) * (_SOLVED_PAIR + _SOLVED_PAIR_COLUMN * rank)
    return numbers + solved + len(pairs.users) * (_USER + _USER_COLUMN * rank) + _CALL + _SOLVED_CALL


def _timed(table: torch.Tensor, direction: torch.Tensor) -> float:
    begin = time.perf_counter()
    _ = table @ direction
    return time.perf_counter() - begin


def _seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


def _size(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"

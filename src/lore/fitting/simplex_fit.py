"""Fits of the simplex family: every "auto" is resolved into a number first, then what is resolved is fitted."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lore.errors import ConvergenceWarning
from lore.fitting.basis import RewardBasis, reference_basis
from lore.fitting.checkpoint import Checkpoint
from lore.fitting.config import RANKS, Fit, FitConfig
from lore.fitting.likelihood import likelihood
from lore.fitting.simplex_descent import (
    STARTS,
    Minimum,
    SimplexDescent,
    StartPlan,
    descend,
    iterate_minima,
    starting_bases,
)
from lore.fitting.simplex_problem import (
    Regularization,
    SimplexProblem,
    UserState,
)
from lore.fitting.validation import FitData, start_around, tuned_strengths
from lore.solvers.lbfgs import OptimizeResult

# Several starts are compared by short descents: steps, and tolerance relative to the fit's.
_SHORT_STEPS, _SHORT_TOLERANCE = 40, 10.0


@dataclass(frozen=True)
class ResolvedConfig:
    """A configuration of the simplex family in which nothing is left to choose.

    Attributes:
        config: of a fixed rank of 1 or more.
        regularization: with both strengths as numbers.
        validation: log loss on held-out groups, if a strength was chosen by it.
    """

    config: FitConfig
    regularization: Regularization
    validation: float | None


def resolve(data: FitData, config: FitConfig, checkpoint: Checkpoint, prefix: str = "") -> ResolvedConfig:
    """Choose every strength that is "auto", for a fixed rank of 1 or more.

    Args:
        data: the pairs.
        config: of a fixed rank.
        checkpoint: of the fit; what it has is not computed again.
        prefix: of names in the checkpoint.
    """
    chooses_distance = config.strength == "auto" and config.penalty == "distance"
    anchor = data.reference
    if chooses_distance and anchor is None and config.fixed_rank > 1:
        anchor = data.pooled(config, checkpoint).direction
    if config.fixed_rank == 1:
        config = replace(config, weight_strength=0.0)
    if chooses_distance and config.fixed_rank == 1:
        pooled = data.pooled(config, checkpoint)
        return ResolvedConfig(config, data.regularization(config, pooled.strength, 0.0, anchor), pooled.validation)
    if config.strength != "auto" and config.weight_strength != "auto":
        regularization = data.regularization(config, config.strength, config.weight_strength, anchor)
        return ResolvedConfig(config, regularization, None)
    tuned = tuned_strengths(data, config, checkpoint, prefix)
    regularization = data.regularization(config, tuned.strength, tuned.weight_strength, anchor)
    return ResolvedConfig(config, regularization, tuned.validation)


def fit_simplex(data: FitData, config: FitConfig, checkpoint: Checkpoint) -> Fit:
    """Fit one configuration of the simplex family, whatever it leaves to choose."""
    if config.rank == "auto":
        return _fit_best_rank(data, config, checkpoint)
    if config.rank == 0 and data.reference is not None:
        return fit_reference(data, config, data.reference)
    return fit_resolved(data, resolve(data, config, checkpoint), checkpoint)


def _fit_best_rank(data: FitData, config: FitConfig, checkpoint: Checkpoint) -> Fit:
    """Return the fit of the rank that predicts held-out groups best: ranks rise for as long as they do so better."""
    best: Fit | None = None
    for rank in (1, *(rank for rank in RANKS if rank <= data.pairs.dim)):
        prefix = f"rank {rank}: "
        resolved = resolve(data, replace(config, rank=rank), checkpoint, prefix)
        fit = fit_resolved(data, resolved, checkpoint, prefix)
        if best is not None and _validation(fit) >= _validation(best):
            break
        best = fit
    assert best is not None  # noqa: S101 - rank 1 is always tried
    return best


def _validation(fit: Fit) -> float:
    """Return the log loss on held-out groups; a fit that was not validated loses to any that was."""
    return math.inf if fit.validation is None else fit.validation


def fit_reference(data: FitData, config: FitConfig, reference: Tensor) -> Fit:
    """Return rank 0: the reward LLM's own direction, with nothing to learn."""
    basis = reference_basis(reference, config.temperature)
    weights = reference.new_ones(len(data.pairs.users), 1)
    table = likelihood(data.pairs, config.average, config.temperature)
    loss = float(table.loss(table.margins(table.project(basis.vectors), weights)))
    return Fit(basis, weights, loss, loss, gap=0.0, optimality=0.0, converged=True, history=[loss])


# --- fitting what is resolved -------------------------------------------------------------------------------------


def fit_resolved(data: FitData, resolved: ResolvedConfig, checkpoint: Checkpoint, prefix: str = "") -> Fit:
    """Fit one configuration with nothing left to choose."""
    return dict(iterate_resolved(data, [resolved], [checkpoint], prefix))[0]


def iterate_resolved(
    data: FitData, resolved: Sequence[ResolvedConfig], checkpoints: Sequence[Checkpoint], prefix: str = ""
) -> Iterator[tuple[int, Fit]]:
    """Fit configurations with nothing left to choose, in the same passes over the embeddings.

    Yields the number of each and its fit, as soon as that is done.

    Args:
        data: the pairs.
        resolved: the configurations.
        checkpoints: one for each; a fit begins at the basis that its checkpoint has.
        prefix: of names in the checkpoints.
    """
    keepers = [_Keeper(checkpoint, prefix) for checkpoint in checkpoints]
    new = [number for number, keeper in enumerate(keepers) if not keeper.has_basis]
    starts = dict(zip(new, _begin(data, [resolved[number] for number in new]), strict=True))
    for number, keeper in enumerate(keepers):
        if keeper.has_basis:
            starts[number] = keeper.start(data, resolved[number])
    descents = [
        SimplexDescent(
            starts[number].problem,
            [starts[number].basis],
            data.spectrum,
            one.config.tolerance,
            one.config.max_iterations,
            state=starts[number].state,
            settle_population=True,
            on_better=keepers[number],
        )
        for number, one in enumerate(resolved)
    ]
    for number, minimum in iterate_minima(descents):
        yield number, _fit(resolved[number], minimum, descents[number].result)


@dataclass(frozen=True)
class _Keeper:
    """Keeps every better basis, and its population, in a checkpoint."""

    checkpoint: Checkpoint
    prefix: str

    @property
    def has_basis(self) -> bool:
        """True if the checkpoint has a basis to go on from."""
        return f"{self.prefix}basis" in self.checkpoint.tensors

    def __call__(self, basis: Tensor, population: Tensor) -> None:
        self.checkpoint.keep({f"{self.prefix}basis": basis, f"{self.prefix}population": population})

    def start(self, data: FitData, resolved: ResolvedConfig) -> "_Start":
        """Return the start that the checkpoint has."""
        problem, tensors = _problem(data, resolved), self.checkpoint.tensors
        population = tensors[f"{self.prefix}population"].to(problem.first_state.population)
        state = replace(problem.first_state, population=population)
        return _Start(problem, tensors[f"{self.prefix}basis"].to(data.pairs.empty), state)


@dataclass(frozen=True)
class _Start:
    """A problem, the basis that its descent begins at, and the state of its users there."""

    problem: SimplexProblem
    basis: Tensor
    state: UserState


def _problem(data: FitData, resolved: ResolvedConfig) -> SimplexProblem:
    config = resolved.config
    return SimplexProblem.of(data.pairs, config.fixed_rank, config.average, config.temperature, resolved.regularization)


def _begin(data: FitData, resolved: Sequence[ResolvedConfig]) -> list[_Start]:
    """Return the best of several starts of each configuration, after a short descent from every one of them."""
    plans: list[StartPlan] = []
    owners: list[int] = []
    for number, one in enumerate(resolved):
        anchor = _anchor(data, one)
        for start in range(one.config.starts(len(data.pairs))):
            distances = STARTS if start == 0 else (STARTS[start % len(STARTS)],)
            plans.append(StartPlan(_problem(data, one), anchor, one.config.seed + start, distances))
            owners.append(number)
    descents = []
    for plan, starts, owner in zip(plans, starting_bases(plans), owners, strict=True):
        config = resolved[owner].config
        steps = _SHORT_STEPS if config.starts(len(data.pairs)) > 1 else 0
        tolerance = _SHORT_TOLERANCE * config.tolerance
        descents.append(SimplexDescent(plan.problem, starts, data.spectrum, tolerance, steps))
    descend(descents)
    best: dict[int, int] = {}
    for index, owner in enumerate(owners):
        if owner not in best or descents[index].result.value < descents[best[owner]].result.value:
            best[owner] = index
    return [
        _Start(plans[index].problem, descents[index].result.point, descents[index].state)
        for index in (best[owner] for owner in range(len(resolved)))
    ]


def _anchor(data: FitData, resolved: ResolvedConfig) -> Tensor:
    """Return the direction to start around: the reference, or if there is none the pooled direction."""
    regularization = resolved.regularization
    if resolved.config.rank == 1 or bool(regularization.reference.norm() > 0):
        return regularization.reference
    return start_around(data, data, resolved.config, regularization.strength)


def _fit(resolved: ResolvedConfig, minimum: Minimum, result: OptimizeResult) -> Fit:
    config, problem, regularization = resolved.config, minimum.request.problem, resolved.regularization
    point, population, gap = minimum.request.basis, minimum.request.state.population, minimum.gap
    reached = result.optimality if gap is None else gap
    converged = result.converged or reached <= config.tolerance
    if not converged:
        warnings.warn(
            f"rank {config.rank} stopped at optimality {reached:.1e} above the tolerance {config.tolerance:.1e}; "
            "raise `max_iterations` or `tolerance`, or give a larger `strength`",
            ConvergenceWarning,
            stacklevel=2,
        )
    basis = RewardBasis(
        vectors=point,
        center=torch.zeros_like(point[:, 0]),
        population=population.to(point),
        family="simplex",
        rank=config.fixed_rank,
        temperature=config.temperature,
        weight_strength=regularization.weight_strength,
    )
    objective = minimum.loss + problem.penalty(point) + problem.shrinkage(population, minimum.weights)
    return Fit(
        basis=basis,
        weights=minimum.weights.to(point),
        loss=float(minimum.loss),
        objective=float(objective),
        gap=gap,
        optimality=result.optimality,
        converged=converged,
        history=result.history,
        strength=regularization.strength,
        weight_strength=regularization.weight_strength,
        validation=resolved.validation,
    )

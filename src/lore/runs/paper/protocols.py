"""Settings of the experiments, and the recipe that they were run with."""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lore.errors import ConfigError
from lore.evaluation.sweep import FitProcedure
from lore.fitting.basis import RewardBasis, reference_basis
from lore.fitting.config import Fit, FitConfig
from lore.fitting.likelihood import likelihood
from lore.pairs.table import Pairs
from lore.progress import Progress, silent
from lore.runs.config import Experiment, ProtocolName
from lore.solvers import adam as recipe
from lore.solvers.simplex import from_logits


@dataclass(frozen=True)
class Recipe:
    """The published way to fit: Adam for a fixed number of steps.

    Attributes:
        solver: "joint", with the distance penalty, or "alternating", with the cosine penalty ramped up.
        strength: of the penalty.
        steps: on the basis.
        rate: learning rate of these.
        few_shot_steps: on the weights of new users.
        few_shot_rate: learning rate of these.
        temperature: of the link.
    """

    solver: Literal["joint", "alternating"]
    strength: float
    steps: int
    rate: float
    few_shot_steps: int
    few_shot_rate: float
    temperature: float

    def procedure(self, seed: int) -> FitProcedure:
        """Return the recipe in the place of `fit_bases` and `fit_weights`."""

        def fit(
            pairs: Pairs,
            configs: Sequence[FitConfig],
            reference: Tensor | None,
            *,
            progress: Progress = silent,
            **_: Any,
        ) -> Iterator[tuple[int, Fit]]:
            for number, config in enumerate(configs):
                progress("fitting", number, len(configs))
                yield number, self._fit(pairs.compact(), config.fixed_rank, reference, seed)
            progress("fitting", len(configs), len(configs))

        def adapt(shots: Pairs, basis: RewardBasis) -> Tensor:
            if basis.columns == 1:
                return shots.empty.new_ones(len(shots.users), 1)
            table = likelihood(shots.compact(), "users", self.temperature)
            start = _normal(len(shots.users), basis.columns, seed, shots.empty)
            vectors = basis.vectors.to(shots.empty)
            how = (self.few_shot_steps, self.few_shot_rate)
            return from_logits(recipe.few_shot_adam(table, start, vectors, steps=how[0], rate=how[1]))

        return FitProcedure(fit, adapt)

    def _fit(self, pairs: Pairs, rank: int, reference: Tensor | None, seed: int) -> Fit:
        if rank == 0 and reference is not None:
            weights = pairs.empty.new_ones(len(pairs.users), 1)
            return _as_fit(pairs, reference_basis(reference.to(pairs.empty), self.temperature), weights)
        drawn = torch.randn if self.solver == "joint" else torch.rand
        generator = torch.Generator().manual_seed(seed)
        logits = drawn(len(pairs.users), rank, generator=generator).to(pairs.empty).requires_grad_()
        vectors = _normal(pairs.dim, rank, seed + 1, pairs.empty).requires_grad_()
        toward = pairs.empty.new_zeros(pairs.dim) if reference is None else reference.to(pairs.empty)
        if self.solver == "joint":
            table = likelihood(pairs, "users", self.temperature)
            strength = self.strength / len(pairs.users)  # the published loss is a sum over users
            recipe.joint_adam(table, logits, vectors, toward, strength, steps=self.steps, rate=self.rate)
        else:
            of_logits, of_basis = (torch.optim.Adam([part], lr=self.rate) for part in (logits, vectors))
            # Without a reference there is nothing for the cosine penalty to turn to.
            strength = 0.0 if reference is None else self.strength
            strengths = [recipe.ramp(strength, step, self.steps) for step in range(self.steps)]
            table = likelihood(pairs, "pairs", self.temperature)
            recipe.alternating_adam(table, logits, vectors, toward, strengths, (of_logits, of_basis))
        weights, vectors = from_logits(logits).detach(), vectors.detach()
        if self.solver == "alternating":
            weights, vectors = recipe.pruned(weights, vectors)
            rank = vectors.shape[1]
        population = weights.mean(0)
        zero = torch.zeros_like(vectors[:, 0])
        basis = RewardBasis(vectors, zero, population, family="simplex", rank=rank, temperature=self.temperature)
        return _as_fit(pairs, basis, weights)


def _normal(rows: int, columns: int, seed: int, like: Tensor) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(like)


def _as_fit(pairs: Pairs, basis: RewardBasis, weights: Tensor) -> Fit:
    table = likelihood(pairs, "users", basis.temperature)
    margin = table.margins(table.project(basis.vectors), weights)
    loss = float(table.loss(margin))
    slope = table.project_transposed(table.slopes(margin, weights))
    optimality = float(slope.norm() * basis.vectors.norm()) / max(loss, torch.finfo(torch.float64).tiny)
    return Fit(basis, weights, loss, loss, gap=None, optimality=optimality, converged=basis.rank == 0)


@dataclass(frozen=True)
class ExperimentSettings:
    """The settings of an experiment.

    Attributes:
        hub: id of the data set.
        ranks: to compare.
        shots: comparisons of new users to learn from.
        trials: draws of these to average over.
        sampling: counts and shares of users and prompts, by name.
        recipe: the published way to fit, or None for our own.
    """

    hub: str
    ranks: tuple[int, ...]
    shots: tuple[int, ...]
    trials: int
    sampling: dict[str, Any]
    recipe: Recipe | None

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {**asdict(self), "ranks": list(self.ranks), "shots": list(self.shots)}


def load_settings(experiment: Experiment, name: ProtocolName) -> ExperimentSettings:
    """Read the settings of an experiment from the file of its name in this folder.

    Raises:
        ConfigError: there is no such experiment, or no such protocol.
    """
    if experiment not in get_args(Experiment) or name not in get_args(ProtocolName):
        raise ConfigError(
            f"`experiment` must be one of {', '.join(get_args(Experiment))} and `protocol` one of "
            f"{', '.join(get_args(ProtocolName))}, got {experiment!r} and {name!r}"
        )
    values = tomllib.loads((files("lore.runs.paper") / f"{experiment}.toml").read_text(encoding="utf-8"))
    return ExperimentSettings(
        hub=values["hub"],
        ranks=tuple(values["ranks"]),
        shots=tuple(values["shots"]),
        trials=values["trials"],
        sampling=values["sampling"],
        recipe=Recipe(**values["original"]) if name == "original" else None,
    )

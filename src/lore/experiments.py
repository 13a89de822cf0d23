"""The paper's experiments: their settings in `experiments/*.toml`, their splits, and the recipe they were run with."""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lore import recipe
from lore.basis import RewardBasis, reference_basis
from lore.config import Fit, FitConfig
from lore.errors import ConfigError, DataError
from lore.evaluate import Method
from lore.pairs import Pairs, Split, same_response, split
from lore.preferences import Preferences
from lore.problem import likelihood
from lore.progress import Progress, silent
from lore.simplex import from_logits

Experiment = Literal["personalllm", "prism", "tldr"]
ProtocolName = Literal["lore", "original"]


@dataclass(frozen=True)
class Recipe:
    """The published way to fit: Adam for a fixed number of steps.

    Attributes:
        solver: "joint", with the distance penalty, or "alternating", with the cosine penalty ramped up.
        strength: of the penalty.
        steps: on the basis.
        rate: learning rate of these.
        few_shot_steps: on the weights of new people.
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

    def method(self, seed: int) -> Method:
        """The recipe in the place of `fit_bases` and `fit_weights`."""

        def fit(
            pairs: Pairs,
            configs: Sequence[FitConfig],
            reference: Tensor | None,
            *,
            progress: Progress = silent,
            keep: Callable[[int, Fit], None],
            **_: Any,
        ) -> None:
            for number, config in enumerate(configs):
                progress("fitting", number, len(configs))
                keep(number, self._fit(pairs.compact(), config.fixed_rank, reference, seed))
            progress("fitting", len(configs), len(configs))

        def adapt(shots: Pairs, basis: RewardBasis) -> Tensor:
            if basis.columns == 1:
                return shots.like.new_ones(len(shots.users), 1)
            table = likelihood(shots.compact(), "users", self.temperature)
            start = _normal(len(shots.users), basis.columns, seed, shots.like)
            vectors = basis.vectors.to(shots.like)
            how = (self.few_shot_steps, self.few_shot_rate)
            return from_logits(recipe.few_shot_adam(table, start, vectors, steps=how[0], rate=how[1]))

        return Method(fit, adapt)

    def _fit(self, pairs: Pairs, rank: int, reference: Tensor | None, seed: int) -> Fit:
        if rank == 0 and reference is not None:
            weights = pairs.like.new_ones(len(pairs.users), 1)
            return _as_fit(pairs, reference_basis(reference.to(pairs.like), self.temperature), weights)
        drawn = torch.randn if self.solver == "joint" else torch.rand
        generator = torch.Generator().manual_seed(seed)
        logits = drawn(len(pairs.users), rank, generator=generator).to(pairs.like).requires_grad_()
        vectors = _normal(pairs.dim, rank, seed + 1, pairs.like).requires_grad_()
        toward = pairs.like.new_zeros(pairs.dim) if reference is None else reference.to(pairs.like)
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
    gap = float(slope.norm() * basis.vectors.norm()) / max(loss, torch.finfo(torch.float64).tiny)
    return Fit(basis, weights, loss, loss, gap, converged=basis.rank == 0)


@dataclass(frozen=True)
class Protocol:
    """How an experiment is run.

    Attributes:
        hub: id of the data set.
        ranks: to compare.
        shots: comparisons of new people to learn from.
        trials: draws of these to average over.
        sampling: counts and shares of people and prompts, by name.
        recipe: the published way to fit, or None for our own.
    """

    hub: str
    ranks: tuple[int, ...]
    shots: tuple[int, ...]
    trials: int
    sampling: dict[str, Any]
    recipe: Recipe | None

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {**asdict(self), "ranks": list(self.ranks), "shots": list(self.shots)}


def read_protocol(experiment: Experiment, name: ProtocolName) -> Protocol:
    """The settings of an experiment, from `experiments/*.toml`.

    Raises:
        ConfigError: there is no such experiment, or no such protocol.
    """
    if experiment not in get_args(Experiment) or name not in get_args(ProtocolName):
        raise ConfigError(
            f"`experiment` must be one of {', '.join(get_args(Experiment))} and `protocol` one of "
            f"{', '.join(get_args(ProtocolName))}, got {experiment!r} and {name!r}"
        )
    packaged = Path(str(files("lore") / "protocols"))
    folder = packaged if packaged.is_dir() else Path(__file__).parents[2] / "experiments"
    values = tomllib.loads((folder / f"{experiment}.toml").read_text(encoding="utf-8"))
    return Protocol(
        hub=values["hub"],
        ranks=tuple(values["ranks"]),
        shots=tuple(values["shots"]),
        trials=values["trials"],
        sampling=values["sampling"],
        recipe=Recipe(**values["original"]) if name == "original" else None,
    )


# --- splits of human data -----------------------------------------------------------------------------------------


def experiment_split(
    experiment: Experiment, protocol: Protocol, preferences: Preferences, pairs: Pairs, seed: int
) -> Split:
    """The split that an experiment on human data prescribes.

    Raises:
        ConfigError: the experiment is on simulated people.
        DataError: too few people are left.
    """
    if experiment == "prism":
        return _prism_split(pairs, **protocol.sampling)
    if experiment == "tldr":
        return _tldr_split(preferences, pairs, seed, **protocol.sampling)
    raise ConfigError("`experiment` 'personalllm' simulates its people; use `lore reproduce personalllm`")


def _prism_split(pairs: Pairs, dialogs: int, unseen: float, test: float, seed: int) -> Split:
    """People with enough dialogs; unseen ones, and half of everybody's dialogs, are held out."""
    owned = torch.stack([pairs.user, pairs.group[pairs.chosen]]).unique(dim=1)[0]
    kept = torch.nonzero(torch.bincount(owned, minlength=len(pairs.users)) >= dialogs).flatten()
    if len(kept) < 2:
        raise DataError(f"{len(kept)} people with {dialogs} dialogs or more, but a split needs two; use more data")
    return split(pairs.of_users(kept), unseen=unseen, test=test, seed=seed, by="user")


def _tldr_split(
    preferences: Preferences, pairs: Pairs, seed: int, unseen: float, train_pairs: int, shot_pairs: int
) -> Split:
    """Workers who are in training and in validation rows, half of them unseen; tested on their validation rows."""
    if "split" not in preferences.extra:
        raise DataError("the rows have no column `split`, which says train or valid; use the published rows")
    strict = preferences.chosen != preferences.rejected
    named = np.array([str(value) for value in preferences.extra["split"]])[strict]
    if "None" in named:
        raise DataError("a row has no `split`, which says train or valid; use the published rows")
    is_test = torch.from_numpy(named != "train")
    test_groups = pairs.group[pairs.chosen[is_test]].unique()
    in_test = torch.isin(pairs.group, test_groups) | same_response(pairs, pairs.select(is_test))
    leaking = ~is_test & (in_test[pairs.chosen] | in_test[pairs.rejected])
    train, test = pairs.select(~is_test & ~leaking), pairs.select(is_test)
    both = torch.nonzero((train.counts > 0) & (test.counts > 0)).flatten().numpy()
    if len(both) < 2:
        raise DataError(f"{len(both)} workers are in training and in validation rows, but a split needs two")
    order = np.random.default_rng(seed).permutation(both)  # of sorted rows: it does not depend on hashes
    held_out = min(max(round(unseen * len(both)), 1), len(both) - 1)
    new, known = (torch.from_numpy(np.sort(part)) for part in (order[:held_out], order[held_out:]))
    return Split(
        seen_train=train.of_users(known).shots(train_pairs, seed),
        seen_test=test.of_users(known),
        unseen_shots=train.of_users(new).shots(shot_pairs, seed),
        unseen_test=test.of_users(new),
        dropped=int(leaking.sum()),
        shared=0,
    )

"""Fits of several ranks, evaluated in the four settings of a split, with controls."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lore.errors import ConfigError
from lore.evaluation.controls import (
    length_margins,
    per_user_baseline,
    with_other_users_weights,
    with_random_labels,
)
from lore.evaluation.metrics import (
    Accuracy,
    accuracy,
    accuracy_of_margins,
    gain,
    interval,
    log_loss_of_margins,
    margins,
)
from lore.fitting.basis import Family, RewardBasis
from lore.fitting.checkpoint import read_fit, write_fit
from lore.fitting.config import Fit, FitConfig, Rank, personal_ranks
from lore.fitting.fit import iterate_fits
from lore.fitting.personalize import UserWeights, fit_weights
from lore.pairs.splits import Split
from lore.pairs.table import Pairs
from lore.progress import Progress, silent

Model = Literal["reference", "pooled", "simplex", "gaussian", "per_user", "wrong_user", "shuffled", "length"]
SHOTS = (1, 2, 5, 10, 20, 50)  # comparisons of an unseen user that few-shot accuracy is measured after


@dataclass(frozen=True)
class Result:
    """Accuracy of one model in one setting; `report.json` holds a list of these.

    Attributes:
        model: what kind of model, or which control.
        rank: of the basis; None for controls without one.
        shots: comparisons that unseen users were learned from; None for all.
        setting: part of the split that it is measured on.
        accuracy: mean over users.
        low: lower end of its 95 % interval.
        high: upper end.
        users: users with pairs.
        pairs: pairs that it is measured on.
        gain: accuracy less that of pooled, paired over users; None for pooled itself.
        gain_low: lower end of the 95 % interval of the gain.
        gain_high: upper end.
        log_loss: of the users' mean rewards; `Calibration` has that of the stated probabilities.
    """

    model: Model
    rank: int | None
    shots: int | None
    setting: str
    accuracy: float
    low: float
    high: float
    users: int
    pairs: int
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    log_loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


class AdaptedWeights:
    """Weights of users from their shots, each distinct problem solved once."""

    def __init__(self) -> None:
        self._solved: dict[tuple[int, int], tuple[Pairs, RewardBasis, UserWeights]] = {}

    def __call__(self, shots: Pairs, basis: RewardBasis) -> UserWeights:
        """Return `fit_weights(shots, basis)`, solved now or before."""
        key = (id(shots), id(basis))  # both are kept below, so that no other object gets their ids
        if key not in self._solved:
            self._solved[key] = (shots, basis, fit_weights(shots, basis))
        return self._solved[key][2]


FitFunction = Callable[..., Iterator[tuple[int, Fit]]]
AdaptFunction = Callable[[Pairs, RewardBasis], Tensor]


@dataclass(frozen=True)
class FitProcedure:
    """Another way to fit than `iterate_fits` and `fit_weights`.

    Attributes:
        fit: called as `iterate_fits` is; yields the number of each configuration and its fit.
        adapt: weights `[users, columns]` from shots and a basis.
    """

    fit: FitFunction
    adapt: AdaptFunction


@dataclass(frozen=True)
class Sweep:
    """All results, the fits by rank, and the model that validation within the training part chose.

    Attributes:
        results: of every model in every setting.
        fits: in the order of the ranks.
        chosen: the personal fit that held-out groups of the training part chose.
        per_user: its accuracy in the setting of the headline: test pairs of unseen users, else of seen users.
        baseline: accuracy of pooled there.
        by_shots: accuracy of the chosen fit for unseen users, by how many comparisons they were learned from.
        weights: users' weights that were solved on the way.
    """

    results: list[Result]
    fits: list[Fit]
    chosen: Fit
    per_user: Accuracy
    baseline: Accuracy
    by_shots: dict[int, Accuracy] = field(default_factory=dict)
    weights: AdaptedWeights = field(default_factory=AdaptedWeights, repr=False)

    @property
    def pooled(self) -> Fit:
        """The fit of rank 1: one model for all users."""
        return next(fit for fit in self.fits if _model(fit) == "pooled")

    @property
    def has_unseen(self) -> bool:
        """True if unseen users have test pairs."""
        return any(result.setting == "unseen_test" for result in self.results)


def sweep(
    split: Split,
    ranks: Sequence[Rank] = (0, 1, 2, 5),
    *,
    families: Sequence[Family] | None = None,
    config: FitConfig | None = None,
    reference: Tensor | None = None,
    checkpoints: Path | None = None,
    progress: Progress = silent,
) -> list[Result]:
    """Fit every rank on the seen users, adapt to the unseen ones, and evaluate all models in the four settings.

    Args:
        split: from `lore.split`.
        ranks: 0 is the reference (left out if there is none), 1 is pooled; pooled is always there. "auto" is 2, 4
            and 8 for the simplex family, and for the gaussian one the number that held-out groups choose.
        families: of the personal models; that of `config` by default.
        config: how to fit; its rank is replaced.
        reference: the reward LLM's own direction `[dim]`.
        checkpoints: a folder that keeps every fit, so that an interrupted sweep resumes.
        progress: called with every fit.

    Returns:
        One result per model and setting, controls included; gains are over pooled, paired over users.
    """
    return run_sweep(
        split,
        ranks,
        families=families,
        config=config,
        reference=reference,
        checkpoints=checkpoints,
        progress=progress,
    ).results


def run_sweep(
    split: Split,
    ranks: Sequence[Rank],
    *,
    families: Sequence[Family] | None = None,
    config: FitConfig | None = None,
    reference: Tensor | None = None,
    checkpoints: Path | None = None,
    progress: Progress = silent,
    procedure: FitProcedure | None = None,
    shots: Sequence[int] = SHOTS,
    trials: int = 1,
) -> Sweep:
    """Run `sweep` and return the fits as well.

    `procedure` replaces our own way to fit. Unseen users are learned from each number of `shots`, drawn `trials` times.
    """
    config = config or FitConfig()
    weights = AdaptedWeights()
    procedure = procedure or FitProcedure(iterate_fits, lambda pairs, basis: weights(pairs, basis).weights)
    configs = _configs(ranks, families or (config.family,), config, reference)
    fits = _fit_all(split.seen_train, configs, reference, checkpoints, progress, procedure)
    pooled = next(fit for fit in fits if _model(fit) == "pooled")
    chosen = _best(fits)
    evaluator = _Evaluator(split, pooled, procedure.adapt)
    results = [result for fit in fits for result in evaluator.results(_model(fit), fit)]
    by_shots = evaluator.few_shots(chosen, config.seed, shots, trials)
    for count, measured in by_shots.items():
        results.append(evaluator.result(_model(chosen), chosen.basis.rank, "unseen_test", measured, shots=count))
    results += evaluator.wrong_user(chosen, config.seed)
    results += evaluator.per_user()
    repeated = replace(_config_of(chosen, config), seed=config.seed)
    coins = with_random_labels(split.seen_train, config.seed)
    # Do not regularize this control toward the reference: it would predict like the reference whatever the labels.
    toward = reference if config.penalty == "cosine" else None
    noise = _fit_all(coins, [repeated], toward, checkpoints, progress, procedure, "shuffled")
    results += evaluator.results("shuffled", noise[0], with_random_labels(split.unseen_shots, config.seed + 1))
    results += evaluator.length()
    setting = "unseen_test" if len(split.unseen_test) else "seen_test"
    return Sweep(
        results=results,
        fits=fits,
        chosen=chosen,
        per_user=evaluator.accuracy(chosen, setting),
        baseline=evaluator.accuracy(pooled, setting),
        by_shots=by_shots,
        weights=weights,
    )


def _configs(
    ranks: Sequence[Rank], families: Sequence[Family], config: FitConfig, reference: Tensor | None
) -> list[FitConfig]:
    if not ranks or any(rank != "auto" and (type(rank) is not int or rank < 0) for rank in ranks):
        raise ConfigError(f"`ranks` must be whole numbers of 0 or more, or 'auto', got {list(ranks)}")
    configs = [replace(config, family="simplex", rank=0)] if 0 in ranks and reference is not None else []
    configs.append(replace(config, family="simplex", rank=1, penalty="distance"))
    for family in families:
        configs += [replace(config, family=family, rank=rank) for rank in personal_ranks(family, ranks)]
    return configs


def _model(fit: Fit) -> Model:
    if fit.basis.family == "gaussian":
        return "gaussian"
    models: dict[int, Model] = {0: "reference", 1: "pooled"}
    return models.get(fit.basis.rank, "simplex")


def _best(fits: Sequence[Fit]) -> Fit:
    """Return the personal fit with the lowest held-out log loss; if one was not validated, that of the highest rank."""
    personal = [fit for fit in fits if fit.basis.rank > 1 or fit.basis.family == "gaussian"]
    if not personal:
        return fits[-1]
    if any(fit.validation is None for fit in personal):
        return max(personal, key=lambda fit: fit.basis.rank)
    return min(personal, key=lambda fit: fit.validation or math.inf)


def _config_of(fit: Fit, config: FitConfig) -> FitConfig:
    """Return the configuration that repeats a fit without choosing its strengths again."""
    return replace(
        config,
        family=fit.basis.family,
        rank=fit.basis.rank,
        strength=fit.strength,
        weight_strength=fit.weight_strength,
    )


class _Evaluator:
    """Evaluates models in the four settings of one split, against pooled."""

    def __init__(self, split: Split, pooled: Fit, adapt: AdaptFunction) -> None:
        self._adapt = adapt
        self._parts = {name: part for name, part in split.parts().items() if len(part)}
        self._split = split
        self._pooled = {
            name: accuracy(part, pooled.basis, part.empty.new_ones(len(part.users), 1))
            for name, part in self._parts.items()
        }

    def _trained(self, setting: str) -> Pairs:
        """Return the pairs that the users of a setting are learned from."""
        return self._split.seen_train if setting.startswith("seen") else self._split.unseen_shots

    def _weights(self, fit: Fit, setting: str, shots: Pairs | None = None) -> Tensor:
        """Return the users' weights in a setting; unseen users are learned from `shots`, by default their own."""
        if setting.startswith("seen"):
            return fit.weights
        return self._adapt(self._split.unseen_shots if shots is None else shots, fit.basis)

    def accuracy(self, fit: Fit, setting: str) -> Accuracy:
        """Return the accuracy of a fit in one setting."""
        return accuracy(self._parts[setting], fit.basis, self._weights(fit, setting))

    def results(self, model: Model, fit: Fit, shots: Pairs | None = None) -> Iterator[Result]:
        """Yield results of a fit in every setting that has pairs."""
        for setting, part in self._parts.items():
            weights = self._weights(fit, setting, shots)
            measured, loss = _measured(part, fit.basis, weights)
            yield self.result(model, fit.basis.rank, setting, measured, loss=loss)

    def result(
        self,
        model: Model,
        rank: int | None,
        setting: str,
        measured: Accuracy,
        *,
        shots: int | None = None,
        loss: float | None = None,
    ) -> Result:
        """Return a result, with its gain over pooled."""
        over = gain(measured, self._pooled[setting]) if model != "pooled" else None
        return Result(
            model=model,
            rank=rank,
            shots=shots,
            setting=setting,
            accuracy=measured.mean,
            low=measured.low,
            high=measured.high,
            users=measured.users,
            pairs=measured.pairs,
            gain=over.mean if over else None,
            gain_low=over.low if over else None,
            gain_high=over.high if over else None,
            log_loss=loss,
        )

    def few_shots(self, fit: Fit, seed: int, counts: Sequence[int], trials: int) -> dict[int, Accuracy]:
        """Return accuracies on unseen users after numbers of comparisons up to what the median user has."""
        if "unseen_test" not in self._parts or not len(self._split.unseen_shots):
            return {}
        median = float(self._split.unseen_shots.counts.double().median())
        part = self._parts["unseen_test"]
        by_shots = {}
        for shots in [count for count in counts if count <= median]:
            draws = [self._split.unseen_shots.shots(shots, seed + trial) for trial in range(trials)]
            trial_accuracies = [accuracy(part, fit.basis, self._adapt(few, fit.basis)).per_user for few in draws]
            per_user = torch.stack(trial_accuracies).mean(0)
            by_shots[shots] = Accuracy(per_user, *interval(per_user), pairs=len(part))
        return by_shots

    def wrong_user(self, fit: Fit, seed: int) -> Iterator[Result]:
        """Yield results of the control in which each user gets the weights of another user."""
        for setting, part in self._parts.items():
            exchanged = with_other_users_weights(self._weights(fit, setting), self._trained(setting), seed)
            if exchanged is not None:
                measured, loss = _measured(part, fit.basis, exchanged)
                yield self.result("wrong_user", fit.basis.rank, setting, measured, loss=loss)

    def per_user(self) -> Iterator[Result]:
        """Yield results of the model that learns each user from their own comparisons alone."""
        basis = per_user_baseline(self._split.seen_train)
        adapt = AdaptedWeights()
        for setting, part in self._parts.items():
            weights = adapt(self._trained(setting), basis)
            measured, loss = _measured(part, basis, weights)
            yield self.result("per_user", None, setting, measured, loss=loss)

    def length(self) -> Iterator[Result]:
        """Yield results of the control in which the longer response wins."""
        for setting, part in self._parts.items():
            margin = length_margins(part)
            if margin is not None:
                yield self.result("length", None, setting, accuracy_of_margins(part, margin))


def _measured(pairs: Pairs, basis: RewardBasis, weights: UserWeights | Tensor) -> tuple[Accuracy, float]:
    """Return accuracy and log loss of weights `[users, columns]`, from one pass over the embeddings."""
    margin = margins(pairs, basis, weights)
    return accuracy_of_margins(pairs, margin), log_loss_of_margins(pairs, margin, basis.temperature)


def _fit_all(
    pairs: Pairs,
    configs: Sequence[FitConfig],
    reference: Tensor | None,
    checkpoints: Path | None,
    progress: Progress,
    procedure: FitProcedure,
    label: str = "fit",
) -> list[Fit]:
    """Return all fits; those that a folder of checkpoints holds already are read."""
    names = [f"{label}-{number}-{config.family}-{config.rank}" for number, config in enumerate(configs)]
    fits = {
        number: read_fit(checkpoints, name)
        for number, name in enumerate(names)
        if checkpoints is not None and (checkpoints / f"{name}.json").exists()
    }
    missing = [number for number in range(len(configs)) if number not in fits]
    if missing:
        partial = [checkpoints / f"{names[number]}.partial.safetensors" if checkpoints else None for number in missing]
        wanted = [configs[number] for number in missing]
        for index, fit in procedure.fit(pairs, wanted, reference, progress=progress, checkpoints=partial):
            fits[missing[index]] = fit
            if checkpoints is not None:
                write_fit(fit, checkpoints, names[missing[index]])
    return [fits[number] for number in range(len(configs))]

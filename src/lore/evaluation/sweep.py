"""Fits of several ranks, evaluated in the four settings of a split, with controls."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from lore.errors import ConfigError
from lore.evaluation.controls import with_random_labels
from lore.evaluation.diagnostics import has_tastes
from lore.evaluation.evaluator import AdaptedWeights, AdaptFunction, Evaluator, HeldOut, Model, Result, model_of
from lore.evaluation.intervals import MIN_PAIRS
from lore.evaluation.metrics import Accuracy, Gain
from lore.fitting.basis import Family
from lore.fitting.checkpoint import read_fit, write_fit
from lore.fitting.config import Fit, FitConfig, Rank, personal_ranks
from lore.fitting.fit import iterate_fits
from lore.pairs.splits import Split
from lore.pairs.table import Pairs
from lore.progress import Progress, silent

SHOTS = (1, 2, 5, 10, 20, 50)  # comparisons of an unseen user that few-shot accuracy is measured after


FitFunction = Callable[..., Iterator[tuple[int, Fit]]]


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
        chosen: the personal fit that held-out groups of the training part chose; pooled if that has no tastes.
        has_tastes: whether rewards differ between users by more than a trifle.
        per_user: accuracy of the chosen fit on test pairs of unseen users, else of seen users.
        baseline: accuracy of pooled there.
        better: gains over the chosen fit, on the same pairs, of models and ranks that are surely better.
        held_out: how far the chosen fit and its rivals have the test pairs right, by setting, unseen users first.
        by_shots: accuracy of the chosen fit for unseen users, by how many comparisons they were learned from.
        weights: users' weights that were solved on the way.
    """

    results: list[Result]
    fits: list[Fit]
    chosen: Fit
    has_tastes: bool
    per_user: Accuracy
    baseline: Accuracy
    better: dict[tuple[Model, int | None], Gain]
    held_out: dict[str, HeldOut]
    by_shots: dict[int, Accuracy] = field(default_factory=dict)
    weights: AdaptedWeights = field(default_factory=AdaptedWeights, repr=False)

    @property
    def pooled(self) -> Fit:
        """The fit of rank 1: one model for all users."""
        return _pooled(self.fits)

    @property
    def has_unseen(self) -> bool:
        """True if unseen users have test pairs."""
        return "unseen_test" in self.held_out

    def result(self, model: Model, setting: str) -> Result | None:
        """Return the result of a model, or of its chosen rank, in a setting; None if there is none."""
        rank = self.chosen.basis.rank
        matching = [one for one in self.results if (one.model, one.setting, one.shots) == (model, setting, None)]
        return next((one for one in matching if one.rank == rank), matching[0] if matching else None)

    @property
    def chosen_model(self) -> Model:
        """The kind of the chosen fit."""
        return model_of(self.chosen)


def sweep(
    split: Split,
    ranks: Sequence[Rank] = (0, 1, 2, 5),
    *,
    families: Sequence[Family] | None = None,
    config: FitConfig | None = None,
    reference: Tensor | None = None,
    checkpoints: Path | None = None,
    progress: Progress = silent,
    min_pairs: int = MIN_PAIRS,
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
        min_pairs: test pairs that a user must have to be counted.

    Returns:
        One result per model and setting, controls included; gains are over pooled on the same pairs.
    """
    return run_sweep(
        split,
        ranks,
        families=families,
        config=config,
        reference=reference,
        checkpoints=checkpoints,
        progress=progress,
        min_pairs=min_pairs,
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
    min_pairs: int = MIN_PAIRS,
) -> Sweep:
    """Run `sweep` and return the fits as well.

    `procedure` replaces our own way to fit. Unseen users are learned from each number of `shots`, drawn `trials` times.
    """
    config = config or FitConfig()
    weights = AdaptedWeights()
    procedure = procedure or FitProcedure(iterate_fits, lambda pairs, basis: weights(pairs, basis).weights)
    configs = _configs(ranks, families or (config.family,), config, reference)
    fits = _fit_all(split.seen_train, configs, reference, checkpoints, progress, procedure)
    pooled, best = _pooled(fits), _best(fits)
    chosen = best if has_tastes(best, split.seen_train) else pooled
    evaluator = Evaluator(split, pooled, procedure.adapt, min_pairs)
    results = [result for fit in fits for result in evaluator.results(model_of(fit), fit)]
    by_shots = evaluator.few_shots(chosen, config.seed, shots, trials)
    results += evaluator.few_shot_results(model_of(chosen), chosen, by_shots)
    results += evaluator.wrong_user(chosen, config.seed)
    results += evaluator.per_user()
    repeated = replace(_config_of(best, config), seed=config.seed)
    coins = with_random_labels(split.seen_train, config.seed)
    # Do not regularize this control toward the reference: it would predict like the reference whatever the labels.
    toward = reference if config.penalty == "cosine" else None
    noise = _fit_all(coins, [repeated], toward, checkpoints, progress, procedure, "shuffled")
    results += evaluator.results("shuffled", noise[0], with_random_labels(split.unseen_shots, config.seed + 1))
    results += evaluator.length()
    results += evaluator.item_rate()
    setting = "unseen_test" if len(split.unseen_test) else "seen_test"
    measured = evaluator.accuracy(chosen, setting)
    return Sweep(
        results=results,
        fits=fits,
        chosen=chosen,
        has_tastes=chosen is best and best is not pooled,
        per_user=measured,
        baseline=evaluator.accuracy(pooled, setting),
        better=evaluator.better(measured, setting),
        held_out=evaluator.held_out(chosen, config.seed),
        by_shots=by_shots,
        weights=weights,
    )


def held_out_of_split(
    split: Split,
    ranks: Sequence[Rank],
    families: Sequence[Family],
    config: FitConfig,
    *,
    reference: Tensor | None = None,
    progress: Progress = silent,
    min_pairs: int = MIN_PAIRS,
) -> dict[str, HeldOut]:
    """Return `Sweep.held_out` of another split, without results and controls that a report shows of one alone."""
    weights = AdaptedWeights()
    procedure = FitProcedure(iterate_fits, lambda pairs, basis: weights(pairs, basis).weights)
    configs = _configs([rank for rank in ranks if rank != 0], families, config, reference)
    fits = _fit_all(split.seen_train, configs, reference, None, progress, procedure)
    best = _best(fits)
    chosen = best if has_tastes(best, split.seen_train) else _pooled(fits)
    return Evaluator(split, _pooled(fits), procedure.adapt, min_pairs).held_out(chosen, config.seed)


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


def _pooled(fits: Sequence[Fit]) -> Fit:
    return next(fit for fit in fits if model_of(fit) == "pooled")


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

"""How well a model predicts held-out choices, for whom, and compared with what: accuracies, intervals, controls."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.special import ndtr, stdtrit
from torch import Tensor

from lore.basis import Family, RewardBasis
from lore.config import Rank
from lore.errors import ConfigError, ShapeError
from lore.files import read_json, replacing, write_json
from lore.fit import Fit, FitConfig, fit_bases
from lore.gaussian import principal_features
from lore.objective import pair_loss
from lore.pairs import Pairs, Split
from lore.personalize import UserWeights, fit_weights
from lore.problem import likelihood
from lore.progress import Progress, silent

Model = Literal["reference", "pooled", "simplex", "gaussian", "per_user", "wrong_user", "shuffled", "length"]
SHOTS = (1, 2, 5, 10, 20, 50)
_SIMPLEX_RANKS = (2, 4, 8)  # that "auto" compares
_RESAMPLES = 2_000
_FEWEST = 5  # users from whom an interval is made
_OWN_VARIANCES = (0.01, 0.1, 1.0, 10.0)  # of per_user's prior, on features of unit scale


@dataclass(frozen=True)
class Accuracy:
    """Share of a user's pairs that a model orders as the user did, averaged over users.

    Attributes:
        per_user: `[users]`; NaN for a user without pairs. A tie counts one half.
        mean: over users with pairs.
        low: lower end of the 95 % interval of the mean, from a bootstrap over users; NaN with fewer than five users,
            from whom nothing can be said about others.
        high: upper end.
        pairs: how many pairs it is from.
    """

    per_user: Tensor
    mean: float
    low: float
    high: float
    pairs: int

    @property
    def users(self) -> int:
        """Users with pairs."""
        return int(self.per_user.isfinite().sum())


@dataclass(frozen=True)
class Gain:
    """Mean difference of two models' accuracies over the same users, with its 95 % interval."""

    mean: float
    low: float
    high: float
    users: int


def margins(pairs: Pairs, basis: RewardBasis, people: UserWeights | Tensor) -> Tensor:
    """Reward of chosen minus reward of rejected, `[pairs]`, for `people` `[users, columns]` in the pairs' order."""
    weights = people.weights if isinstance(people, UserWeights) else people
    if weights.shape != (len(pairs.users), basis.columns):
        raise ShapeError(f"`people` must be [{len(pairs.users)}, {basis.columns}], got {tuple(weights.shape)}")
    table = likelihood(pairs, "pairs", basis.temperature)
    projected = table.project(torch.cat([basis.vectors, basis.center[:, None]], dim=1).to(pairs.like))
    return table.margins(projected[:, :-1], weights.to(projected)) + projected[:, -1]


def accuracy(pairs: Pairs, basis: RewardBasis, people: UserWeights | Tensor) -> Accuracy:
    """Accuracy of a model on some pairs.

    Args:
        pairs: held-out choices.
        basis: shared directions.
        people: weights, row by row in the order of `pairs.users`.

    Raises:
        ShapeError: the weights do not fit.
    """
    return accuracy_of_margins(pairs, margins(pairs, basis, people))


def correct(pairs: Pairs, margin: Tensor) -> Tensor:
    """Whether margins `[pairs]` are on the preferred side: 1 or 0, and 1/2 for a tie of either; `[pairs]`.

    Preferred is chosen where the label is above 1/2, and rejected where it is below.
    """
    return (1 + margin.sign().double() * (pairs.label.double() - 1 / 2).sign()) / 2


def accuracy_of_margins(pairs: Pairs, margin: Tensor) -> Accuracy:
    """The same from margins `[pairs]`."""
    right = correct(pairs, margin)
    total = torch.zeros(len(pairs.users), dtype=torch.float64, device=margin.device).index_add_(0, pairs.user, right)
    per_user = total / pairs.counts  # 0 / 0 is NaN: a user without pairs
    mean, low, high = _interval(per_user)
    return Accuracy(per_user, mean, low, high, len(pairs))


def gain(model: Accuracy, baseline: Accuracy) -> Gain:
    """What `model` is better by than `baseline`, paired over users."""
    difference = model.per_user - baseline.per_user
    return Gain(*_interval(difference), users=int(difference.isfinite().sum()))


def _interval(per_user: Tensor) -> tuple[float, float, float]:
    """Mean over users and its 95 % interval; the same resamples for the same number of users.

    The percentile interval, wider for few users, so that it covers as Student's t does (Hesterberg 2015, section 4.4).
    """
    values = per_user[per_user.isfinite()].cpu().numpy()
    if len(values) < _FEWEST:
        return float(values.mean()) if len(values) else math.nan, math.nan, math.nan
    rng = np.random.default_rng(0)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(_RESAMPLES)]
    tail = _tail(len(values))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(values.mean()), float(low), float(high)


def _tail(users: int) -> float:
    """What a percentile interval leaves out on each side: the normal tail beyond `sqrt(n / (n-1)) t(0.975, n-1)`."""
    return float(ndtr(-stdtrit(users - 1, 0.975) * math.sqrt(users / (users - 1))))


def log_loss(pairs: Pairs, basis: RewardBasis, people: UserWeights | Tensor) -> float:
    """Mean negative log-likelihood of the choices, averaged over users."""
    table = likelihood(pairs, "users", basis.temperature)
    loss = pair_loss(margins(pairs, basis, people).double(), pairs.label.double(), basis.temperature)
    return float((table.share.double() * loss).sum())


# --- a sweep over models and settings -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """Accuracy of one model in one setting; `report.json` holds a list of these.

    `log_loss` is that of people's mean rewards; where the family knows how sure it is, `calibration` has that of the
    probabilities that it states.
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
        """The fields as JSON values."""
        return asdict(self)


def _adapted(shots: Pairs, basis: RewardBasis) -> Tensor:
    return fit_weights(shots, basis).weights


@dataclass(frozen=True)
class Method:
    """How bases are fitted and people adapted to: what `fit_bases` does, and weights `[users, columns]` from shots."""

    fit: Callable[..., Any] = fit_bases
    adapt: Callable[[Pairs, RewardBasis], Tensor] = _adapted


@dataclass(frozen=True)
class Sweep:
    """All results, the fits by rank, and the model that validation within the training part chose.

    Attributes:
        results: of every model in every setting.
        fits: in the order of the ranks.
        chosen: the personal fit that held-out groups of the training part chose.
        per_user: its accuracy in the setting of the headline: unseen people's test, else seen people's.
        baseline: of pooled there.
        by_shots: of the chosen fit for unseen people, by how many comparisons they are known.
    """

    results: list[Result]
    fits: list[Fit]
    chosen: Fit
    per_user: Accuracy
    baseline: Accuracy
    by_shots: dict[int, Accuracy] = field(default_factory=dict)


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
        ranks: 0 is the reference (left out where there is none), 1 is pooled; pooled is always there. "auto" is 2, 4
            and 8 for the simplex family, and for the gaussian one the number that held-out groups choose.
        families: of the personal models; that of `config` by default.
        config: how to fit; its rank is replaced.
        reference: the reward LLM's own direction `[dim]`.
        checkpoints: a folder that keeps every fit, so that an interrupted sweep resumes.
        progress: told of every fit.

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
    method: Method | None = None,
    shots: Sequence[int] = SHOTS,
    trials: int = 1,
) -> Sweep:
    """`sweep`, with the fits themselves.

    `method` replaces `fit_bases` and `fit_weights`; unseen people are known by each of `shots` comparisons, drawn
    `trials` times.
    """
    method = method or Method()
    config = config or FitConfig()
    configs = _configs(ranks, families or (config.family,), config, reference)
    fits = _fit_all(split.seen_train, configs, reference, checkpoints, progress, method)
    pooled = next(fit for fit in fits if fit.basis.rank == 1 and fit.basis.family == "simplex")
    chosen = _best(fits)
    evaluator = _Evaluator(split, pooled, method)
    results = [result for fit in fits for result in evaluator.results(_name(fit), fit)]
    by_shots = evaluator.few_shots(chosen, config.seed, shots, trials)
    for count, found in by_shots.items():
        results.append(evaluator.result(_name(chosen), chosen.basis.rank, "unseen_test", found, shots=count))
    results += evaluator.wrong_user(chosen, config.seed)
    results += evaluator.own(split)
    shuffled = replace(_config_of(chosen, config), seed=config.seed)
    coins = _shuffled(split.seen_train, config.seed)
    # Drawn to a reference it would predict what that does, whatever the coins said.
    toward = reference if config.penalty == "cosine" else None
    noise = _fit_all(coins, [shuffled], toward, checkpoints, progress, method, "shuffled")
    results += evaluator.results("shuffled", noise[0], _shuffled(split.unseen_shots, config.seed + 1))
    results += evaluator.length()
    setting = "unseen_test" if len(split.unseen_test) else "seen_test"
    return Sweep(results, fits, chosen, evaluator.of(chosen, setting), evaluator.of(pooled, setting), by_shots)


def _configs(
    ranks: Sequence[Rank], families: Sequence[Family], config: FitConfig, reference: Tensor | None
) -> list[FitConfig]:
    if not ranks or any(rank != "auto" and rank < 0 for rank in ranks):
        raise ConfigError(f"`ranks` must be numbers of 0 or more, or 'auto', got {list(ranks)}")
    configs = [replace(config, family="simplex", rank=0)] if 0 in ranks and reference is not None else []
    configs.append(replace(config, family="simplex", rank=1, penalty="distance"))
    for family in families:
        personal = personal_ranks(family, ranks)
        configs += [replace(config, family=family, rank=rank) for rank in personal]
    return configs


def personal_ranks(family: Family, ranks: Sequence[Rank]) -> list[Rank]:
    """The personal models among some ranks, as `sweep` takes them."""
    if family == "gaussian" and "auto" in ranks:
        return ["auto"]
    numbers = {rank for rank in ranks if rank != "auto"} | set(_SIMPLEX_RANKS if "auto" in ranks else ())
    return [*sorted(rank for rank in numbers if rank >= (1 if family == "gaussian" else 2))]


def _name(fit: Fit) -> Model:
    if fit.basis.family == "gaussian":
        return "gaussian"
    named: dict[int, Model] = {0: "reference", 1: "pooled"}
    return named.get(fit.basis.rank, "simplex")


def _best(fits: Sequence[Fit]) -> Fit:
    """The personal model with the lowest held-out log loss; where none was validated, the highest rank."""
    personal = [fit for fit in fits if fit.basis.rank > 1 or fit.basis.family == "gaussian"]
    if not personal:
        return fits[-1]
    if any(fit.validation is None for fit in personal):
        return max(personal, key=lambda fit: fit.basis.rank)
    return min(personal, key=lambda fit: fit.validation or math.inf)


def _config_of(fit: Fit, config: FitConfig) -> FitConfig:
    """The configuration that repeats a fit without choosing its strengths again."""
    return replace(
        config,
        family=fit.basis.family,
        rank=fit.basis.rank,
        strength=fit.strength,
        weight_strength=fit.weight_strength,
    )


def _shuffled(pairs: Pairs, seed: int) -> Pairs:
    """The same pairs with choices that a coin made."""
    generator = torch.Generator().manual_seed(seed)
    swap = torch.randint(2, (len(pairs),), generator=generator).bool().to(pairs.label.device)
    return replace(pairs, label=torch.where(swap, 1 - pairs.label, pairs.label), ratings=None)


class _Evaluator:
    """Evaluates models in the four settings of one split, against pooled."""

    def __init__(self, split: Split, pooled: Fit, method: Method) -> None:
        self.method = method
        self.parts = {name: part for name, part in split.parts().items() if len(part)}
        self.split = split
        self.pooled = {name: accuracy(part, pooled.basis, self._ones(part)) for name, part in self.parts.items()}

    @staticmethod
    def _ones(part: Pairs) -> Tensor:
        return part.like.new_ones(len(part.users), 1)

    def _people(self, fit: Fit, setting: str, shots: Pairs | None = None) -> Tensor:
        """Weights of the people of a setting; the unseen ones are known by `shots`, their own by default."""
        if setting.startswith("seen"):
            return fit.weights
        return self.method.adapt(self.split.unseen_shots if shots is None else shots, fit.basis)

    def of(self, fit: Fit, setting: str) -> Accuracy:
        """Accuracy of a fit in one setting."""
        return accuracy(self.parts[setting], fit.basis, self._people(fit, setting))

    def results(self, model: Model, fit: Fit, shots: Pairs | None = None) -> Iterator[Result]:
        """Results of a fit in every setting that has pairs."""
        for setting, part in self.parts.items():
            people = self._people(fit, setting, shots)
            found, loss = accuracy(part, fit.basis, people), log_loss(part, fit.basis, people)
            yield self.result(model, fit.basis.rank, setting, found, loss=loss)

    def result(
        self,
        model: Model,
        rank: int | None,
        setting: str,
        found: Accuracy,
        *,
        shots: int | None = None,
        loss: float | None = None,
    ) -> Result:
        """A result, with its gain over pooled."""
        over = gain(found, self.pooled[setting]) if model != "pooled" else None
        return Result(
            model=model,
            rank=rank,
            shots=shots,
            setting=setting,
            accuracy=found.mean,
            low=found.low,
            high=found.high,
            users=found.users,
            pairs=found.pairs,
            gain=over.mean if over else None,
            gain_low=over.low if over else None,
            gain_high=over.high if over else None,
            log_loss=loss,
        )

    def few_shots(self, fit: Fit, seed: int, counts: Sequence[int], trials: int) -> dict[int, Accuracy]:
        """Accuracy on unseen users after some numbers of comparisons, as far as the median user has so many."""
        if "unseen_test" not in self.parts or not len(self.split.unseen_shots):
            return {}
        most = float(self.split.unseen_shots.counts.double().median())
        part = self.parts["unseen_test"]
        by_shots = {}
        for shots in [count for count in counts if count <= most]:
            drawn = [self.split.unseen_shots.shots(shots, seed + trial) for trial in range(trials)]
            found = [accuracy(part, fit.basis, self.method.adapt(few, fit.basis)).per_user for few in drawn]
            per_user = torch.stack(found).mean(0)
            by_shots[shots] = Accuracy(per_user, *_interval(per_user), pairs=len(part))
        return by_shots

    def wrong_user(self, fit: Fit, seed: int) -> Iterator[Result]:
        """The control in which everybody gets the weights of another user with training pairs."""
        for setting, part in self.parts.items():
            trained = self.split.seen_train if setting.startswith("seen") else self.split.unseen_shots
            known = torch.nonzero(trained.counts > 0).flatten().cpu()
            if len(known) < 2:
                continue
            order = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]
            people = self._people(fit, setting).clone()
            people[order] = people[order.roll(1)]
            found = accuracy(part, fit.basis, people)
            yield self.result("wrong_user", fit.basis.rank, setting, found, loss=log_loss(part, fit.basis, people))

    def own(self, split: Split) -> Iterator[Result]:
        """The model that learns everybody from their own comparisons alone, its shrinkage chosen on seen users."""
        basis = _own_basis(split.seen_train)
        for setting, part in self.parts.items():
            trained = split.seen_train if setting.startswith("seen") else split.unseen_shots
            people = fit_weights(trained, basis)
            loss = log_loss(part, basis, people)
            yield self.result("per_user", None, setting, accuracy(part, basis, people), loss=loss)

    def length(self) -> Iterator[Result]:
        """The control in which the longer response wins."""
        for setting, part in self.parts.items():
            if part.length is not None and part.rejected is not None:
                found = accuracy_of_margins(part, part.length[part.chosen] - part.length[part.rejected])
                yield self.result("length", None, setting, found)


def _own_basis(pairs: Pairs) -> RewardBasis:
    """Per-user ridge logistic regression on features: a gaussian basis without a center, validated for its variance."""
    pairs = pairs.compact()
    features = principal_features(pairs.vectors).map

    def basis(variance: float) -> RewardBasis:
        vectors = features * math.sqrt(variance)
        zero = torch.zeros_like(vectors)
        return RewardBasis(vectors, zero[:, 0], zero[0], family="gaussian", rank=vectors.shape[1])

    groups, number = pairs.group.unique(return_inverse=True)
    held = torch.randperm(len(groups), generator=torch.Generator().manual_seed(0)) % 3 == 0
    train, test = pairs.parted(held.to(number.device)[number])
    if len(train) == 0 or len(test) == 0:
        return basis(_OWN_VARIANCES[1])
    return basis(min(_OWN_VARIANCES, key=lambda variance: _held_out(train, test, basis(variance))))


def _held_out(train: Pairs, test: Pairs, basis: RewardBasis) -> float:
    return log_loss(test, basis, fit_weights(train, basis))


# --- fits that survive an interruption ----------------------------------------------------------------------------


def _fit_all(
    pairs: Pairs,
    configs: Sequence[FitConfig],
    reference: Tensor | None,
    checkpoints: Path | None,
    progress: Progress,
    method: Method,
    label: str = "fit",
) -> list[Fit]:
    """All fits; those that a checkpoint holds already are read back."""
    fits: dict[int, Fit] = {}
    names = [f"{label}-{number}-{config.family}-{config.rank}" for number, config in enumerate(configs)]
    for number, name in enumerate(names):
        if checkpoints is not None and (checkpoints / f"{name}.json").exists():
            fits[number] = _read_fit(checkpoints, name)
    missing = [number for number in range(len(configs)) if number not in fits]

    def keep(at: int, fit: Fit) -> None:
        fits[missing[at]] = fit
        if checkpoints is not None:
            _write_fit(fit, checkpoints, names[missing[at]])

    if missing:
        partial = [checkpoints / f"{names[number]}.partial.safetensors" if checkpoints else None for number in missing]
        wanted = [configs[number] for number in missing]
        method.fit(pairs, wanted, reference, progress=progress, keep=keep, checkpoints=partial)
    return [fits[number] for number in range(len(configs))]


def _write_fit(fit: Fit, folder: Path, name: str) -> None:
    fit.basis.save(folder / name)
    with replacing(folder / f"{name}.safetensors") as beside:
        save_file({"weights": fit.weights.detach().cpu().contiguous()}, beside)
    numbers = {key: value for key, value in vars(fit).items() if key not in ("basis", "weights")}
    write_json(folder / f"{name}.json", numbers)


def _read_fit(folder: Path, name: str) -> Fit:
    weights = load_file(folder / f"{name}.safetensors")["weights"]
    return Fit(RewardBasis.load(folder / name), weights, **read_json(folder / f"{name}.json"))

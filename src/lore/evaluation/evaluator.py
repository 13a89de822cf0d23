"""Accuracies of models in the four settings of a split, each against one model for all."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from lore.evaluation.controls import exchanged_weights, item_rate_margins, length_margins, per_user_baseline
from lore.evaluation.intervals import Sample
from lore.evaluation.metrics import (
    Accuracy,
    Gain,
    ProjectedPairs,
    accuracy_of_margins,
    accuracy_of_right,
    correct,
    gain,
    log_loss_of_margins,
)
from lore.fitting.basis import RewardBasis
from lore.fitting.config import Fit
from lore.fitting.personalize import UserWeights, fit_weights
from lore.pairs.splits import Split
from lore.pairs.table import Pairs

_SURE = 0.99  # level at which a model is called better than the chosen one: there are ten or so to look at
AdaptFunction = Callable[[Pairs, RewardBasis], Tensor]
Model = Literal[
    "reference", "pooled", "simplex", "gaussian", "per_user", "wrong_user", "shuffled", "length", "item_rate"
]
SHOTS = (1, 2, 5, 10, 20, 50)  # comparisons of an unseen user that few-shot accuracy is measured after


@dataclass(frozen=True)
class Result:
    """Accuracy of one model in one setting; `report.json` holds a list of these.

    Attributes:
        model: what kind of model, or which control.
        rank: of the basis; None for controls without one.
        shots: comparisons that unseen users were learned from; None for all.
        setting: part of the split that it is measured on.
        accuracy: mean over users (`Accuracy`).
        low: lower end of its 95 % interval for new users and new prompts.
        high: upper end.
        users: users who are counted.
        pairs: pairs that it is measured on.
        gain: accuracy less that of pooled on the same pairs; None for pooled itself.
        gain_low: lower end of the 95 % interval of the gain for new users and new prompts.
        gain_high: upper end.
        log_loss: of the users' mean rewards; `Calibration` has that of the stated probabilities.
        equal: accuracy in which each user counts alike.
        low_these_prompts: lower end of the interval of `accuracy` for new users and the prompts that were tested.
        high_these_prompts: upper end.
        gain_equal: gain in which each user counts alike.
        gain_low_these_prompts: lower end of the interval of `gain` for new users and the prompts that were tested.
        gain_high_these_prompts: upper end.
        left_out: users with too few pairs to be counted.
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
    equal: float | None = None
    low_these_prompts: float | None = None
    high_these_prompts: float | None = None
    gain_equal: float | None = None
    gain_low_these_prompts: float | None = None
    gain_high_these_prompts: float | None = None
    left_out: int = 0

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


def model_of(fit: Fit) -> Model:
    """Return what kind of model a fit is."""
    if fit.basis.family == "gaussian":
        return "gaussian"
    models: dict[int, Model] = {0: "reference", 1: "pooled"}
    return models.get(fit.basis.rank, "simplex")


@dataclass(frozen=True)
class HeldOut:
    """Held-out pairs, and how far several models have each of them right.

    Attributes:
        pairs: test pairs of one setting.
        right: `[pairs]` each, of "chosen", "pooled", "wrong_user" and "item_rate", as far as there are such, and of the
            other models that were evaluated, fits with their rank, such as "simplex 2".
    """

    pairs: Pairs = field(repr=False)
    right: Mapping[str, Tensor] = field(repr=False)


class Evaluator:
    """Evaluates models in the four settings of one split, against pooled."""

    def __init__(self, split: Split, pooled: Fit, adapt: AdaptFunction, min_pairs: int) -> None:
        """Evaluate pooled.

        Args:
            split: the four parts.
            pooled: the fit of one model for all.
            adapt: weights `[users, columns]` from shots and a basis.
            min_pairs: test pairs that a user must have to be counted.
        """
        self._adapt, self._split = adapt, split
        self._parts = {name: part for name, part in split.parts().items() if len(part)}
        self._measurements: dict[tuple[Model, int | None, str], Accuracy] = {}
        self._samples = {name: Sample(part, min_pairs) for name, part in self._parts.items()}
        self._pooled = {
            name: self._measured(pooled.basis, name, part.empty.new_ones(len(part.users), 1))[0]
            for name, part in self._parts.items()
        }

    def accuracy(self, fit: Fit, setting: str) -> Accuracy:
        """Return the accuracy of a fit in one setting."""
        return self._measured(fit.basis, setting, self._weights(fit, setting))[0]

    def results(self, model: Model, fit: Fit, shots: Pairs | None = None) -> Iterator[Result]:
        """Yield results of a fit in every setting that has pairs."""
        for setting in self._parts:
            measured, loss = self._measured(fit.basis, setting, self._weights(fit, setting, shots))
            yield self._result(model, fit.basis.rank, setting, measured, loss=loss)

    def better(self, chosen: Accuracy, setting: str) -> dict[tuple[Model, int | None], Gain]:
        """Return gains of models over the chosen one, of those that are surely better among the results so far."""
        gains = {
            (model, rank): gain(measured, chosen, _SURE)
            for (model, rank, measured_in), measured in self._measurements.items()
            if measured_in == setting
        }
        return {name: over for name, over in gains.items() if over.low > 0}

    def few_shots(self, fit: Fit, seed: int, counts: Sequence[int], trials: int) -> dict[int, Accuracy]:
        """Return accuracies on unseen users after numbers of comparisons up to what the median user has."""
        if "unseen_test" not in self._parts or not len(self._split.unseen_shots):
            return {}
        median = float(self._split.unseen_shots.counts.double().median())
        part, sample = self._parts["unseen_test"], self._samples["unseen_test"]
        projected, by_shots = ProjectedPairs(part, fit.basis), {}
        for shots in [count for count in counts if count <= median]:
            draws = [self._split.unseen_shots.shots(shots, seed + trial) for trial in range(trials)]
            right = [correct(part, projected.margins(self._adapt(few, fit.basis))) for few in draws]
            by_shots[shots] = accuracy_of_right(torch.stack(right).mean(0), sample)
        return by_shots

    def few_shot_results(self, model: Model, fit: Fit, by_shots: Mapping[int, Accuracy]) -> Iterator[Result]:
        """Yield results of `few_shots`."""
        for shots, measured in by_shots.items():
            yield self._result(model, fit.basis.rank, "unseen_test", measured, shots=shots)

    def wrong_user(self, fit: Fit, seed: int) -> Iterator[Result]:
        """Yield results of the control in which each user gets the weights of other users."""
        for setting in self._parts:
            if (others := self._with_other_weights(fit, setting, seed)) is not None:
                measured = accuracy_of_right(others[0], self._samples[setting])
                yield self._result("wrong_user", fit.basis.rank, setting, measured, loss=others[1])

    def per_user(self) -> Iterator[Result]:
        """Yield results of the model that learns each user from their own comparisons alone."""
        basis = per_user_baseline(self._split.seen_train)
        adapt = AdaptedWeights()
        for setting in self._parts:
            measured, loss = self._measured(basis, setting, adapt(self._trained(setting), basis))
            yield self._result("per_user", None, setting, measured, loss=loss)

    def length(self) -> Iterator[Result]:
        """Yield results of the rule that the longer response wins."""
        for setting, part in self._parts.items():
            yield from self._rule("length", setting, length_margins(part))

    def item_rate(self) -> Iterator[Result]:
        """Yield results of the rule that the response wins which won more often in training."""
        for setting in self._tested:
            yield from self._rule("item_rate", setting, self._item_rate(setting))

    def held_out(self, fit: Fit, seed: int) -> dict[str, HeldOut]:
        """Return how far the chosen fit and its rivals have the test pairs right, by setting."""
        held_out: dict[str, HeldOut] = {}
        for setting in self._tested:
            part = self._parts[setting]
            right = {
                name if rank is None or name in ("pooled", "wrong_user") else f"{name} {rank}": measured.right
                for (name, rank, measured_in), measured in self._measurements.items()
                if measured_in == setting
            }
            chosen = self._measurements.get((model_of(fit), fit.basis.rank, setting))
            right["chosen"] = (self.accuracy(fit, setting) if chosen is None else chosen).right
            right["pooled"] = self._pooled[setting].right
            if "wrong_user" not in right and (others := self._with_other_weights(fit, setting, seed)) is not None:
                right["wrong_user"] = others[0]
            if (rate := self._item_rate(setting)) is not None:
                right["item_rate"] = correct(part, rate)
            held_out[setting] = HeldOut(part, right)
        return held_out

    @property
    def _tested(self) -> list[str]:
        """Settings of held-out pairs, new users first."""
        return [setting for setting in ("unseen_test", "seen_test") if setting in self._parts]

    def _trained(self, setting: str) -> Pairs:
        """Return the pairs that the users of a setting are learned from."""
        return self._split.seen_train if setting.startswith("seen") else self._split.unseen_shots

    def _weights(self, fit: Fit, setting: str, shots: Pairs | None = None) -> Tensor:
        """Return the users' weights in a setting; unseen users are learned from `shots`, by default their own."""
        if setting.startswith("seen"):
            return fit.weights
        return self._adapt(self._split.unseen_shots if shots is None else shots, fit.basis)

    def _with_other_weights(self, fit: Fit, setting: str, seed: int) -> tuple[Tensor, float] | None:
        """Return how far pairs are right with other users' weights, `[pairs]`, and the log loss; None for one user."""
        part = self._parts[setting]
        projected = ProjectedPairs(part, fit.basis)
        exchanged = exchanged_weights(self._weights(fit, setting), self._trained(setting), seed)
        margins = [projected.margins(weights) for weights in exchanged]
        if not margins:
            return None
        loss = statistics.mean(log_loss_of_margins(part, margin, fit.basis.temperature) for margin in margins)
        return torch.stack([correct(part, margin) for margin in margins]).mean(0), loss

    def _item_rate(self, setting: str) -> Tensor | None:
        return item_rate_margins(self._parts[setting], self._split.seen_train)

    def _rule(self, model: Model, setting: str, margin: Tensor | None) -> Iterator[Result]:
        if margin is not None:
            measured = accuracy_of_margins(self._parts[setting], margin, self._samples[setting])
            yield self._result(model, None, setting, measured)

    def _measured(self, basis: RewardBasis, setting: str, weights: UserWeights | Tensor) -> tuple[Accuracy, float]:
        """Return accuracy and log loss of weights `[users, columns]`, from one pass over the embeddings."""
        part = self._parts[setting]
        margin = ProjectedPairs(part, basis).margins(weights)
        loss = log_loss_of_margins(part, margin, basis.temperature)
        return accuracy_of_margins(part, margin, self._samples[setting]), loss

    def _result(
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
        if shots is None:
            self._measurements[model, rank, setting] = measured
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
            equal=measured.equal,
            low_these_prompts=measured.these_prompts.low,
            high_these_prompts=measured.these_prompts.high,
            gain_equal=over.equal if over else None,
            gain_low_these_prompts=over.these_prompts.low if over else None,
            gain_high_these_prompts=over.these_prompts.high if over else None,
            left_out=measured.left_out,
        )

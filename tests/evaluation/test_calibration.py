import math
from dataclasses import replace

import pytest
import torch

from builders import random_pairs
from lore.evaluation.calibration import calibration, margin_variances, probabilities
from lore.evaluation.metrics import margins
from lore.fitting.basis import RewardBasis
from lore.fitting.fit import FitConfig, fit_basis
from lore.fitting.personalize import fit_weights
from lore.pairs.table import Pairs


def coins(chance: torch.Tensor, seed: int) -> Pairs:
    """Judgements of one person whose probabilities are these, on embeddings of one number: their logits."""
    wins = torch.rand(len(chance), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) < chance
    rows = torch.arange(len(chance))
    return Pairs.from_rows(chance.logit()[:, None], rows, None, torch.zeros_like(rows), label=wins.double())


ONE = RewardBasis(torch.ones(1, 1).double(), torch.zeros(1).double(), torch.ones(1).double(), "simplex", 1)
EVERYBODY = torch.ones(1, 1, dtype=torch.float64)


def test_probabilities_that_are_true_are_calibrated_and_exaggerated_ones_are_not() -> None:
    chance = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.8 + 0.1
    pairs = coins(chance, seed=1)
    true = calibration(pairs, ONE, EVERYBODY)
    assert true.error < 0.015
    assert (true.low <= true.predicted).sum() >= 8
    assert (true.predicted <= true.high).sum() >= 8
    assert true.log_loss == pytest.approx(
        float(-(chance * chance.log() + (1 - chance) * (1 - chance).log()).mean()), abs=0.01
    )
    exaggerated = calibration(pairs, ONE, 3 * EVERYBODY)
    assert exaggerated.error > 0.1
    assert exaggerated.brier > true.brier
    assert exaggerated.log_loss > true.log_loss


def test_swapping_sides_changes_nothing() -> None:
    chance = torch.rand(500, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    pairs = coins(chance, seed=3)
    swapped = Pairs.from_rows(-pairs.vectors, pairs.chosen, None, pairs.user, label=1 - pairs.label)
    one, other = calibration(pairs, ONE, EVERYBODY), calibration(swapped, ONE, EVERYBODY)
    assert (one.error, one.brier, one.log_loss) == pytest.approx((other.error, other.brier, other.log_loss))
    torch.testing.assert_close(one.observed, other.observed)


def test_uncertainty_draws_probabilities_to_one_half_by_the_posteriors_variance() -> None:
    pairs = random_pairs()
    basis = fit_basis(pairs, FitConfig(family="gaussian", rank=2, strength=0.01)).basis
    people = fit_weights(pairs.shots(3, seed=0), basis)
    variance = margin_variances(pairs, basis, people)
    for at in range(0, len(pairs), 17):
        row = pairs.user[at : at + 1]
        difference = (pairs.vectors[pairs.chosen[at]] - pairs.vectors[pairs.rejected[at]]) @ basis.vectors
        assert float(variance[at]) == pytest.approx(
            float(difference @ people.covariance(row)[0] @ difference), rel=1e-6
        )
    plain = probabilities(pairs, basis, people.weights)
    drawn = probabilities(pairs, basis, people)
    assert bool(((plain - 0.5).abs() >= (drawn - 0.5).abs()).all())
    margin = margins(pairs, basis, people)
    torch.testing.assert_close(drawn, torch.sigmoid(margin / (1 + math.pi * variance / 8).sqrt()))


def test_the_averaged_probability_is_near_that_of_many_draws() -> None:
    pairs = random_pairs()
    basis = fit_basis(pairs, FitConfig(family="gaussian", rank=2, strength=0.01)).basis
    people = fit_weights(pairs.shots(2, seed=0), basis)
    margin, variance = margins(pairs, basis, people), margin_variances(pairs, basis, people)
    noise = torch.randn(4_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = torch.sigmoid(margin + noise * variance.sqrt()).mean(0)
    torch.testing.assert_close(probabilities(pairs, basis, people), exact, atol=0.03, rtol=0)


def test_the_log_loss_of_a_saturated_model_is_finite(planted: Pairs) -> None:
    basis = fit_basis(planted, FitConfig(rank=2, strength=1e-3, weight_strength=0.0)).basis
    sure = replace(basis, vectors=1e6 * basis.vectors)
    assert math.isfinite(calibration(planted, sure, fit_weights(planted, basis).weights).log_loss)

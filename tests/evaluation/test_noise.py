"""Noise of people and ties: planted ones are found, and the laws of units hold."""

import math

import pytest
import torch
from torch import Tensor

from lore.errors import DataError
from lore.evaluation.noise import learn_noise
from lore.pairs.table import Pairs


def planted(
    people: int, each: int, median: float, spread: float, tie: float, seed: int = 0
) -> tuple[Pairs, Tensor, Tensor]:
    """Choices of people of different noise, their margins, and their temperatures."""
    rng = torch.Generator().manual_seed(seed)
    temperature = (math.log(median) + spread * torch.randn(people, generator=rng)).exp().double()
    user = torch.arange(people).repeat_interleave(each)
    margin = 2 * torch.randn(len(user), generator=rng).double()
    half = margin / (2 * temperature[user])
    chances = torch.stack([half.exp(), (-half).exp(), torch.full_like(half, tie)], dim=1)
    judged = torch.multinomial(chances, 1, generator=rng).squeeze(1)
    # Rows are turned round where the second side won: chosen always comes first.
    margin = torch.where(judged == 1, -margin, margin)
    label = torch.where(judged == 2, 0.5, 1.0)
    pairs = Pairs.from_rows(torch.zeros(len(user), 1), torch.arange(len(user)), None, user, label=label)
    return pairs, margin, temperature


@pytest.mark.parametrize(("median", "spread", "tie"), [(1.0, 0.5, 0.0), (2.0, 0.3, 0.8), (0.7, 0.6, 0.2)])
def test_planted_noise_and_ties_are_found(median: float, spread: float, tie: float) -> None:
    pairs, margin, temperature = planted(300, 150, median, spread, tie)
    found = learn_noise(pairs, margin)
    assert found.median == pytest.approx(median, rel=0.1)
    assert found.spread == pytest.approx(spread, abs=0.08)
    assert found.tie == pytest.approx(tie, abs=0.1)
    together = torch.corrcoef(torch.stack([found.temperature.log(), temperature.log()]))[0, 1]
    assert together > 0.75
    covered = (found.low <= temperature) & (temperature <= found.high)
    assert 0.9 <= float(covered.double().mean()) <= 0.99


def test_people_who_are_alike_have_no_spread() -> None:
    pairs, margin, _ = planted(300, 100, 1.0, 0.0, 0.0)
    found = learn_noise(pairs, margin)
    assert found.spread < 0.15
    assert found.temperature.log().std() < 0.08
    assert found.tie == 0


def test_few_users_who_choose_as_the_model_says_are_hardly_ever_called_surely_different() -> None:
    sure = []
    for seed in range(60):
        found = learn_noise(*planted(20, 10, 1.0, 0.0, 0.0, seed)[:2])
        assert found.sure is None
        sure.append(float(((found.low > 1) | (found.high < 1)).double().mean()))
    assert sum(share >= 0.9 for share in sure) <= 3
    assert sum(sure) / len(sure) < 0.06


def test_margins_in_other_units_give_temperatures_in_those() -> None:
    pairs, margin, _ = planted(80, 100, 1.0, 0.4, 0.3)
    one, other = learn_noise(pairs, margin), learn_noise(pairs, 2 * margin, temperature=2.0)
    torch.testing.assert_close(one.temperature, other.temperature)
    doubled = learn_noise(pairs, 1.5 * margin)
    torch.testing.assert_close(doubled.temperature, 1.5 * one.temperature, rtol=0.02, atol=0)
    assert doubled.tie == pytest.approx(one.tie, rel=0.01)


def test_somebody_without_choices_is_like_the_population_and_huge_margins_stay_finite() -> None:
    pairs, margin, _ = planted(50, 40, 1.0, 0.5, 0.2)
    more = pairs.select(pairs.user != 7)
    found = learn_noise(more, margin[pairs.user != 7])
    assert float(found.temperature[7]) == pytest.approx(found.median, rel=0.05)
    assert found.high[7] / found.low[7] > (found.high / found.low).median()
    wild = learn_noise(pairs, 1e4 * margin)
    assert bool(wild.temperature.isfinite().all())
    assert math.isfinite(wild.tie)
    with pytest.raises(DataError, match="no choices"):
        learn_noise(pairs.select(torch.zeros(len(pairs), dtype=torch.bool)), margin[:0])

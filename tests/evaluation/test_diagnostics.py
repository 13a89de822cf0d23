import pytest
import torch

from lore.evaluation.diagnostics import collapse, has_tastes, learning_curve
from lore.fitting.basis import RewardBasis
from lore.fitting.config import Fit
from lore.pairs.table import Pairs


def fit_of(vectors: torch.Tensor, weights: torch.Tensor, family: str) -> Fit:
    columns = vectors.shape[1]
    population = torch.full((columns,), 1 / columns if family == "simplex" else 0.0, dtype=torch.float64)
    basis = RewardBasis(vectors, torch.zeros(len(vectors)).double(), population, family, columns)  # type: ignore[arg-type]
    return Fit(basis, weights, 0.0, 0.0, gap=None, optimality=0.0, converged=True)


def spread_pairs(dim: int) -> Pairs:
    vectors = torch.randn(500, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Pairs.from_rows(vectors, torch.arange(500), torch.arange(500).roll(1), torch.zeros(500, dtype=torch.long))


def test_the_effective_rank_counts_the_directions_that_people_differ_along() -> None:
    pairs = spread_pairs(6)
    rng = torch.Generator().manual_seed(1)
    for rank in (1, 3, 6):
        weights = torch.zeros(400, 6, dtype=torch.float64)
        weights[:, :rank] = torch.randn(400, rank, generator=rng, dtype=torch.float64)
        found = collapse(fit_of(torch.eye(6).double(), weights, "gaussian"), pairs)
        assert found.effective_rank == pytest.approx(rank, rel=0.03)
        assert found.weight_entropy is None
    alike = collapse(fit_of(torch.eye(6).double(), torch.ones(400, 6).double(), "gaussian"), pairs)
    assert alike.effective_rank == 0


def test_equal_directions_have_cosine_one_and_people_at_corners_no_entropy() -> None:
    pairs = spread_pairs(4)
    apart = torch.eye(4, dtype=torch.float64)[:, :3]
    corners = torch.eye(3, dtype=torch.float64)[torch.arange(30) % 3]
    found = collapse(fit_of(apart, corners, "simplex"), pairs)
    assert found.weight_entropy == 0
    assert found.largest_cosine < 0.7
    doubled = torch.stack([apart[:, 0], apart[:, 0], apart[:, 1]], dim=1)
    collapsed = collapse(fit_of(doubled, torch.full((30, 3), 1 / 3).double(), "simplex"), pairs)
    assert collapsed.largest_cosine == pytest.approx(1)
    assert collapsed.weight_entropy == pytest.approx(1)


def gains(gain: float, users: int, spread: float, seed: int) -> torch.Tensor:
    noise = spread * torch.randn(users, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return gain + noise


def test_a_planted_learning_curve_is_found_and_what_twice_as_many_bring_is_predicted() -> None:
    inside = 0
    for seed in range(20):
        found = learning_curve({n: gains(0.1 * n / (n + 8), 400, 0.05, 100 * seed + n) for n in (1, 2, 5, 10, 20)})
        assert found is not None
        assert found.shots == 40
        assert found.gain == pytest.approx(0.1 * 40 / 48, abs=0.02)
        inside += found.low <= 0.1 * 40 / 48 <= found.high
    assert inside >= 16


def test_too_few_points_or_users_have_no_curve() -> None:
    assert learning_curve({n: gains(0.1, 10, 0.0, n) for n in (1, 2)}) is None
    assert learning_curve({n: gains(0.1, 4, 0.0, n) for n in (1, 2, 5)}) is None


def test_users_whose_rewards_differ_by_rounding_alone_have_no_tastes() -> None:
    pairs = spread_pairs(6)
    rng = torch.Generator().manual_seed(0)
    common = torch.randn(6, 1, generator=rng, dtype=torch.float64)
    apart = torch.randn(6, 3, generator=rng, dtype=torch.float64)
    weights = torch.softmax(torch.randn(40, 3, generator=rng, dtype=torch.float64), dim=1)
    assert not has_tastes(fit_of(common + 3e-7 * apart, weights, "simplex"), pairs)
    assert has_tastes(fit_of(common + 0.05 * apart, weights, "simplex"), pairs)
    assert not has_tastes(fit_of(common + apart, torch.full_like(weights, 1 / 3), "simplex"), pairs)

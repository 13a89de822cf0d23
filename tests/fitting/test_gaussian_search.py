import pytest
import torch

from lore.fitting.fit import FitConfig, fit_bases, fit_basis
from lore.fitting.gaussian_search import RANKS, RULE, SHARED_RULE, chosen_rank, hill_climb, rank_losses
from lore.pairs.table import Pairs


def test_an_automatic_rank_is_near_the_number_of_planted_tastes() -> None:
    rng = torch.Generator().manual_seed(8)
    users, each, features, planted = 80, 60, 12, 3
    vectors = torch.randn(600, features, generator=rng, dtype=torch.float64)
    tastes = torch.randn(users, planted, generator=rng, dtype=torch.float64) @ (
        2 * torch.eye(features).double()[:planted]
    )
    user = torch.arange(users).repeat_interleave(each)
    first, second = torch.randint(600, (2, len(user)), generator=rng)
    margin = ((vectors[first] - vectors[second]) * tastes[user]).sum(1)
    wins = torch.rand(len(user), generator=rng, dtype=torch.float64) < torch.sigmoid(margin)
    pairs = Pairs.from_rows(vectors, torch.where(wins, first, second), torch.where(wins, second, first), user)
    fit = fit_basis(pairs, FitConfig(family="gaussian", rank="auto"))
    assert abs(fit.basis.rank - planted) <= 2
    variances = fit.basis.vectors.square().sum(0)
    assert float(variances[planted - 1]) > 5 * float(variances[planted + 1])


def test_a_ladder_is_climbed_to_where_the_loss_is_lowest_and_one_rung_beyond() -> None:
    ladder = (1, 2, 4, 8, 16, 32)
    for best in ladder:
        tried = hill_climb(ladder, 4, lambda rung, best=best: abs(rung - best))  # type: ignore[misc]
        assert min(tried, key=tried.__getitem__) == best
    assert set(hill_climb(ladder, 4, lambda rung: abs(rung - 4))) == {2, 4, 8}


@pytest.mark.parametrize(
    ("repeated", "losses", "expected"),
    [
        (False, {8: 0.5, 10: 0.4998, 12: 0.49975, 6: 0.6}, 10),  # more are worth having, and then no more
        (False, {8: 0.5, 10: 0.4998, 12: 0.6, 6: 0.5, 4: 0.4996, 3: 0.6}, 4),  # and fewer still better
        (False, {8: 0.5, 10: 0.49995, 6: 0.5002, 4: 0.50004, 3: 0.502, 2: 0.4}, 4),  # fewer do, past one that does not
        (False, {8: 0.5, 10: 0.6, 6: 0.5001, 4: 0.5, 3: 0.5, 2: 0.5, 1: 0.5}, 1),
        (True, {8: 0.5, 10: 0.4999, 6: 0.4999, 4: 0.6}, 8),  # as in general, unless another number is surely better
        (True, {8: 0.5, 10: 0.4999, 6: 0.4997, 4: 0.5001}, 6),
        (False, {0: 0.4, 8: 0.5, 10: 0.6, 6: 0.6}, 0),  # none at all
        (True, {0: 0.4, 8: 0.5, 10: 0.6, 6: 0.6}, 0),
    ],
)
def test_as_many_tastes_are_kept_as_are_worth_having(repeated: bool, losses: dict[int, float], expected: int) -> None:
    rule = SHARED_RULE if repeated else RULE
    tried = rank_losses(8, RANKS, losses.__getitem__, rule)
    assert chosen_rank(8, tried, losses.get(0, 1.0), rule) == expected


@pytest.mark.parametrize("features", range(1, 8))
def test_with_few_features_the_largest_admissible_rank_is_tried(features: int) -> None:
    ranks = [rank for rank in RANKS if rank <= features]
    losses = {8: 0.5} | {rank: 0.5 - 0.01 * (rank == ranks[-1]) for rank in ranks}
    assert ranks[-1] in rank_losses(8, ranks, losses.__getitem__, RULE)
    assert chosen_rank(8, rank_losses(8, ranks, losses.__getitem__, RULE), 1.0, RULE) == ranks[-1]


def test_people_who_are_alike_have_no_tastes() -> None:
    rng = torch.Generator().manual_seed(9)
    vectors = torch.randn(300, 5, generator=rng, dtype=torch.float64)
    first, second = torch.randint(300, (2, 900), generator=rng)
    wins = torch.rand(900, generator=rng).double() < torch.sigmoid(3 * (vectors[first] - vectors[second])[:, 0])
    user = torch.randint(20, (900,), generator=rng)
    pairs = Pairs.from_rows(vectors, torch.where(wins, first, second), torch.where(wins, second, first), user)
    fit = fit_basis(pairs, FitConfig(family="gaussian", rank="auto"))
    assert fit.basis.rank <= 1
    assert float(fit.basis.vectors.square().sum()) < 0.1 * float(fit.basis.center.square().sum())


@pytest.mark.parametrize("seed", [3, 4])
def test_the_center_is_as_long_as_each_chooses_and_not_as_all_do_on_average(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    users, each, features = 100, 40, 6
    vectors = torch.randn(800, features, generator=rng, dtype=torch.float64)
    common = torch.tensor([1.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    tastes = common + 0.8 * (1 - common) * torch.randn(users, features, generator=rng, dtype=torch.float64)
    user = torch.arange(users).repeat_interleave(each)
    first, second = torch.randint(800, (2, len(user)), generator=rng)
    margin = ((vectors[first] - vectors[second]) * tastes[user]).sum(1)
    wins = torch.rand(len(user), generator=rng, dtype=torch.float64) < torch.sigmoid(margin)
    pairs = Pairs.from_rows(vectors, torch.where(wins, first, second), torch.where(wins, second, first), user)
    pooled, personal = fit_bases(pairs, [FitConfig(rank=1), FitConfig(family="gaussian", rank="auto")])
    average, center = pooled.basis.vectors[:, 0], personal.basis.center
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(average, center, dim=0).item(), 1.0)
    assert float(average.norm()) < 0.6  # of the common direction, which is of length 1
    assert 0.8 < float(center.norm()) < 1.2, "the length is not that of a person"

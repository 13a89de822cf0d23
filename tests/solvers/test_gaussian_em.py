from itertools import islice, pairwise
from typing import Any

import pytest
import torch

from lore.solvers.gaussian_em import TasteCovariance, covariance_em, ppca_covariance, principal_features
from lore.solvers.user_problems import UserProblems


@pytest.mark.parametrize(("rows", "dim"), [(30, 6), (6, 30)])
def test_features_are_principal_components_of_unit_mean_square(rows: int, dim: int) -> None:
    vectors = torch.randn(rows, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = principal_features(vectors, max_features=4).map
    assert features.shape == (dim, 4)
    found = (vectors - vectors.mean(0)) @ features
    assert float(found.square().mean()) == pytest.approx(1)
    spectrum = torch.linalg.svdvals(vectors - vectors.mean(0))[:4]
    torch.testing.assert_close(found.norm(dim=0) / found.norm(dim=0)[0], spectrum / spectrum[0])


def learned(choices: UserProblems, projected: torch.Tensor, rank: int) -> TasteCovariance:
    """Tastes after eight iterations around a center of zero."""
    path = covariance_em(choices, projected, torch.zeros(len(projected), dtype=torch.float64), rank, variance=0.01)
    return next(islice(path, 7, None))


def test_covariance_is_low_rank_plus_a_multiple_of_the_identity() -> None:
    rng = torch.Generator().manual_seed(0)
    projected = torch.randn(400, 6, generator=rng, dtype=torch.float64)
    user = torch.arange(20).repeat_interleave(20)
    choices = UserProblems(user, torch.ones(400), torch.ones(400) / 4, 20, 1.0)
    root = learned(choices, projected, rank=2).root
    variances = root.square().sum(0)
    torch.testing.assert_close(variances[2:], variances[2:].mean().expand(4))
    assert (variances[:2] >= variances[2]).all()
    torch.testing.assert_close(root.T @ root, torch.diag(variances), atol=1e-9, rtol=0)
    everything = learned(choices, projected, rank=6).root
    assert everything.isfinite().all()


def test_a_planted_taste_is_found() -> None:
    rng = torch.Generator().manual_seed(1)
    taste = torch.nn.functional.normalize(torch.randn(5, generator=rng, dtype=torch.float64), dim=0)
    projected = torch.randn(60 * 40, 5, generator=rng, dtype=torch.float64)
    user = torch.arange(60).repeat_interleave(40)
    liking = 4 * torch.randn(60, generator=rng, dtype=torch.float64)
    wins = torch.rand(2400, generator=rng, dtype=torch.float64) < torch.sigmoid((projected @ taste) * liking[user])
    projected = torch.where(wins[:, None], projected, -projected)
    choices = UserProblems(user, torch.ones(2400), torch.ones(2400), 60, 1.0)
    root = learned(choices, projected, rank=1).root
    first = torch.nn.functional.normalize(root[:, 0], dim=0)
    assert abs(float(first @ taste)) > 0.97


def jaakkola_jordan(projected: torch.Tensor, root: torch.Tensor, user: torch.Tensor, users: int) -> Any:
    """The bound of Jaakkola and Jordan (2000) at its best for a covariance: second moment, likelihood, posteriors."""
    precision = torch.linalg.inv(root @ root.T)
    xi = torch.ones(len(projected), dtype=torch.float64)
    for _ in range(300):
        weight = torch.tanh(xi / 2) / (2 * xi)
        means, covariances = [], []
        for person in range(users):
            own = projected[user == person]
            inverse = torch.linalg.inv(precision + own.T @ (weight[user == person][:, None] * own))
            covariances.append(inverse)
            means.append(inverse @ own.sum(0) / 2)
        mean, covariance = torch.stack(means), torch.stack(covariances)
        second = covariance + mean[:, :, None] * mean[:, None, :]
        xi = torch.einsum("pf,pfg,pg->p", projected, second[user], projected).sqrt()
    margin = (projected * mean[user]).sum(1)
    likelihood = (torch.nn.functional.logsigmoid(xi) + (margin - xi) / 2).sum()
    return second.mean(0), likelihood, mean, covariance


def bound(likelihood: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor, root: torch.Tensor) -> float:
    """Expected log-likelihood under the bound, less the divergence of the posteriors from the prior."""
    sigma = root @ root.T
    precision = torch.linalg.inv(sigma)
    second = covariance + mean[:, :, None] * mean[:, None, :]
    divergence = (second * precision).sum((1, 2)) - len(root) + torch.logdet(sigma) - torch.logdet(covariance)
    return float(likelihood - divergence.sum() / 2)


def test_neither_step_lowers_the_bound_of_jaakkola_and_jordan() -> None:
    rng = torch.Generator().manual_seed(6)
    users, each, features, rank = 8, 12, 4, 1
    user = torch.arange(users).repeat_interleave(each)
    tastes = torch.randn(users, features, generator=rng, dtype=torch.float64) * torch.tensor([2.0, 0.5, 0.5, 0.5])
    projected = torch.randn(users * each, features, generator=rng, dtype=torch.float64)
    wins = torch.rand(len(user), generator=rng).double() < torch.sigmoid((projected * tastes[user]).sum(1))
    projected = torch.where(wins[:, None], projected, -projected)
    root = 0.1 * torch.eye(features, dtype=torch.float64)
    values = []
    for _ in range(6):
        moment, likelihood, mean, covariance = jaakkola_jordan(projected, root, user, users)
        values.append(bound(likelihood, mean, covariance, root))
        root = ppca_covariance(moment, rank).root
        values.append(bound(likelihood, mean, covariance, root))
    assert all(after >= before - 1e-6 for before, after in pairwise(values))
    assert values[-1] > values[0] + 0.2


def test_the_covariance_of_a_second_moment_is_the_likeliest_of_its_form() -> None:
    rng = torch.Generator().manual_seed(7)
    draws = torch.randn(50, 5, generator=rng, dtype=torch.float64)
    moment = draws.T @ draws / 50

    def likelihood(root: torch.Tensor) -> float:
        sigma = root @ root.T
        return -float(torch.logdet(sigma) + torch.trace(torch.linalg.solve(sigma, moment)))

    best = ppca_covariance(moment, rank=2).root
    torch.testing.assert_close(ppca_covariance(moment, rank=5).root @ ppca_covariance(moment, 5).root.T, moment)
    for _ in range(50):
        directions = best[:, :2] + 0.05 * torch.randn(5, 2, generator=rng, dtype=torch.float64)
        noise = float(best[:, 4].norm()) * float(torch.exp(0.1 * torch.randn(1, generator=rng)))
        left = torch.linalg.qr(torch.cat([directions, torch.eye(5).double()], dim=1)).Q[:, 2:5]
        assert likelihood(torch.cat([directions, noise * left], dim=1)) <= likelihood(best) + 1e-9

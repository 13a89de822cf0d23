from dataclasses import replace

import pytest
import torch

from lore.solvers.gaussian_weights import gaussian_covariance, gaussian_variances, gaussian_weights
from lore.solvers.simplex_weights import SimplexPrior, simplex_weights
from lore.solvers.user_problems import UserProblems
from solvers_builders import choices_of


def test_gaussian_mode_has_no_gradient_and_the_gap_bounds_the_error() -> None:
    choices, projected = choices_of(4, 7, 5, 2.0)
    choices = replace(choices, share=torch.ones_like(choices.share))
    offset = torch.randn(len(projected), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rough = gaussian_weights(choices, projected, offset, 1e-1)
    found = gaussian_weights(choices, projected, offset, 1e-14)

    def objective(w: torch.Tensor) -> torch.Tensor:
        margin = (projected * w[choices.user]).sum(1) + offset
        losses = torch.nn.functional.softplus(-margin)
        return w.square().sum(1) / 2 + torch.zeros(4, dtype=torch.float64).index_add(0, choices.user, losses)

    w = found.weights.clone().requires_grad_()
    gradient = torch.autograd.grad(objective(w).sum(), w)[0]
    assert gradient.abs().max() < 1e-6
    assert (objective(rough.weights) - objective(found.weights) <= rough.gap + 1e-12).all()
    single = torch.autograd.functional.hessian(
        lambda v: objective(torch.stack([v, *found.weights[1:]]))[0], w[0].detach()
    )
    covariance = gaussian_covariance(choices, projected, offset, found.weights)
    torch.testing.assert_close(covariance[0], torch.linalg.inv(single))
    moments = gaussian_weights(choices, projected, offset, 1e-14, moments=True).second_moment
    torch.testing.assert_close(moments, found.weights.T @ found.weights + covariance.sum(0))


@pytest.mark.parametrize("pairs_each", [3, 12])
def test_variances_of_margins_are_those_of_the_covariances(pairs_each: int) -> None:
    choices, projected = choices_of(5, pairs_each, 6, 2.0)
    choices = replace(choices, users=6)  # of whom one has no pairs
    offset = torch.zeros(len(projected), dtype=torch.float64)
    weights = gaussian_weights(choices, projected, offset, 1e-10).weights
    covariance = gaussian_covariance(choices, projected, offset, weights)
    rng = torch.Generator().manual_seed(0)
    user = torch.tensor([4, 0, 5, 0, 2, 4, 4])
    asked = torch.randn(len(user), 6, generator=rng, dtype=torch.float64)
    expected = torch.einsum("pc,pcd,pd->p", asked, covariance[user], asked)
    torch.testing.assert_close(gaussian_variances(choices, projected, offset, weights, asked, user), expected)


def test_a_large_gaussian_step_is_shortened() -> None:
    # One saturated wrong choice: the curvature is nothing and a full Newton step would go far beyond.
    choices = UserProblems(torch.zeros(1, dtype=torch.long), torch.ones(1), torch.full((1,), 500.0), 1, 1.0)
    found = gaussian_weights(choices, torch.tensor([[1.0]]), torch.tensor([-20.0]), 1e-12)
    assert float(found.gap[0]) <= 1e-12
    assert 20 < float(found.weights[0, 0]) < 40


@pytest.mark.parametrize("pairs_each", [2, 12])
def test_margins_in_the_thousands_and_choices_that_say_the_same_are_solved(pairs_each: int) -> None:
    rng = torch.Generator().manual_seed(0)
    direction = torch.randn(1, 3, generator=rng, dtype=torch.float64)
    projected = 1e4 * torch.randn(20 * pairs_each, 1, generator=rng, dtype=torch.float64) * direction
    choices, _ = choices_of(20, pairs_each, 3, 1.0)
    prior = SimplexPrior(torch.full((3,), 1 / 3, dtype=torch.float64), torch.zeros(20, dtype=torch.float64))
    found = simplex_weights(choices, projected, prior, 1e-6)
    assert bool(found.weights.isfinite().all())
    torch.testing.assert_close(found.weights.sum(1), torch.ones(20, dtype=torch.float64))


@pytest.mark.parametrize("columns", [2, 9])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_gaussian_weights_are_found_with_fewer_or_more_pairs_than_columns(columns: int, scale: float) -> None:
    rng = torch.Generator().manual_seed(8)
    users, each = 30, 5
    user = torch.arange(users).repeat_interleave(each)
    projected = scale * torch.randn(len(user), columns, generator=rng, dtype=torch.float64)
    projected[1] = projected[0]  # two choices that say the same
    offset = scale * torch.randn(len(user), generator=rng, dtype=torch.float64)
    label, share = torch.rand(2, len(user), generator=rng, dtype=torch.float64)
    choices = UserProblems(user, label, share, users, 1.0)
    tolerance = 1e-12 * max(scale, 1.0) ** 2  # of a squared gradient, whose unit is that of the scale
    found = gaussian_weights(choices, projected, offset, tolerance)
    assert float(found.gap.max()) <= tolerance
    slope = share * (torch.sigmoid((projected * found.weights[user]).sum(1) + offset) - label)
    gradient = found.weights.index_add(0, user, slope[:, None] * projected)
    torch.testing.assert_close(gradient.square().sum(1) / 2, found.gap, atol=tolerance, rtol=0)
    start = found.weights + torch.randn(found.weights.shape, generator=rng, dtype=torch.float64)
    warm = gaussian_weights(choices, projected, offset, tolerance, start=start).weights
    torch.testing.assert_close(warm, found.weights, atol=3e-6 * max(scale, 1.0), rtol=0)
    hasty = gaussian_weights(choices, 300 * projected, 300 * offset, tolerance, max_iterations=3)
    assert bool(hasty.weights.isfinite().all())
    assert float(hasty.gap.max()) > tolerance  # which says that more iterations are needed


@pytest.mark.parametrize("scale", [100.0, 1_000.0])
@pytest.mark.parametrize("columns", [2, 9, 25])
def test_margins_in_the_hundreds_that_contradict_are_solved(columns: int, scale: float) -> None:
    rng = torch.Generator().manual_seed(8)
    user = torch.arange(60).repeat_interleave(12)
    projected = scale * torch.randn(len(user), columns, generator=rng, dtype=torch.float64)
    offset = scale * torch.randn(len(user), generator=rng, dtype=torch.float64)
    label = torch.randint(2, (len(user),), generator=rng).double()
    found = gaussian_weights(UserProblems(user, label, torch.ones(len(user)), 60, 1.0), projected, offset, 1e-12)
    assert float(found.gap.max()) <= 1e-12


def test_a_hessian_that_is_too_old_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "lore.solvers.gaussian_weights._CHORD", 1.0
    )  # so that every Hessian is kept for as long as it helps
    monkeypatch.setattr("lore.solvers.gaussian_weights._SMALL", 0)
    choices, projected = choices_of(8, 9, 4, 6.0)
    choices = replace(choices, share=torch.ones_like(choices.share))
    offset = -20 * torch.rand(len(projected), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = gaussian_weights(choices, projected, offset, 1e-12, max_iterations=500)
    assert float(found.gap.max()) <= 1e-12


def test_many_people_whose_steps_share_a_hessian_are_solved_as_each_alone() -> None:
    rng = torch.Generator().manual_seed(6)
    users, each, columns = 20, 70, 80  # a block that is large enough
    user = torch.arange(users).repeat_interleave(each)
    projected = torch.randn(len(user), columns, generator=rng, dtype=torch.float64) / columns**0.5
    offset, one = torch.randn(len(user), generator=rng, dtype=torch.float64), torch.ones(each)
    together = gaussian_weights(
        UserProblems(user, one.repeat(users), one.repeat(users), users, 1.0), projected, offset, 1e-12
    )
    assert float(together.gap.max()) <= 1e-12
    for at in range(users):
        own = slice(at * each, (at + 1) * each)
        alone = gaussian_weights(
            UserProblems(torch.zeros(each).long(), one, one, 1, 1.0), projected[own], offset[own], 1e-12
        )
        torch.testing.assert_close(alone.weights[0], together.weights[at], atol=3e-6, rtol=0)

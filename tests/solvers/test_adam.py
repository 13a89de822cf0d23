import pytest
import torch

from builders import random_pairs
from lore.errors import ShapeError
from lore.solvers import adam as recipe
from lore.solvers.objective import penalty
from lore.solvers.simplex import from_logits


def differences() -> list[torch.Tensor]:
    """One tensor a user; the third has none."""
    pairs = random_pairs(users=5)
    own = [10 * pairs.for_users(torch.tensor([user])).differences().float() for user in range(5)]
    own[2] = own[2][:0]
    return own


def plain_loss(own: list[torch.Tensor], logits: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Sum over users of the mean over their pairs, user by user."""
    weights = torch.softmax(logits, 1)
    margins = [rows @ basis @ w / 100 for rows, w in zip(own, weights, strict=True) if len(rows)]
    return sum(-torch.nn.functional.logsigmoid(margin).mean() for margin in margins)


def start(rank: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(5, rank, generator=rng).requires_grad_(), torch.randn(6, rank, generator=rng).requires_grad_()


def test_loss_and_gradients_are_those_of_the_loop_over_users() -> None:
    own, (logits, basis) = differences(), start()
    table = recipe.summed_means(*recipe.stack_users(own))
    found, expected = recipe.loss(table, recipe.projected(table, basis), logits), plain_loss(own, logits, basis)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(*(torch.autograd.grad(v, [logits, basis]) for v in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_joint_adam_takes_the_steps_of_plain_adam() -> None:
    own, (logits, basis), (other, plain), reference = differences(), start(), start(), torch.ones(6)
    recipe.joint_adam(recipe.summed_means(*recipe.stack_users(own)), logits, basis, reference, 0.01, steps=30, rate=0.1)
    optimizer = torch.optim.Adam([other, plain], lr=0.1)
    for _ in range(30):
        optimizer.zero_grad()
        (plain_loss(own, other, plain) + 0.01 * (plain - reference[:, None]).square().sum()).backward()
        optimizer.step()
    torch.testing.assert_close(basis, plain, atol=1e-4, rtol=0)
    torch.testing.assert_close(from_logits(logits), from_logits(other), atol=1e-4, rtol=0)


def test_few_shot_adam_takes_the_steps_of_plain_adam() -> None:
    own, (logits, basis), (other, _) = differences(), start(), start()
    table = recipe.summed_means(*recipe.stack_users(own))
    learned = recipe.few_shot_adam(table, logits, basis, steps=40, rate=0.1)
    optimizer = torch.optim.Adam([other], lr=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        plain_loss(own, other, basis.detach()).backward()
        optimizer.step()
    torch.testing.assert_close(learned, other.detach(), atol=1e-4, rtol=0)
    torch.testing.assert_close(learned[2], logits[2].detach())  # who has no pairs stays


def test_alternating_adam_moves_weights_first_and_the_basis_after() -> None:
    own, (logits, basis), reference = differences(), start(), torch.ones(6)
    begun = basis.detach().clone(), logits.detach().clone()
    table = recipe.mean(*recipe.stack_users(own))
    optimizers = tuple(torch.optim.Adam([part], lr=0.1) for part in (logits, basis))
    recipe.alternating_adam(table, logits, basis, reference, [0.0, 5.0], optimizers)
    basis_2, logits_2 = begun[0].clone().requires_grad_(), begun[1].clone().requires_grad_()
    steps = tuple(torch.optim.Adam([part], lr=0.1) for part in (logits_2, basis_2))
    for strength in (0.0, 5.0):
        for half, optimizer in enumerate(steps):
            optimizer.zero_grad()
            value = recipe.loss(table, table.vectors @ basis_2, logits_2)
            if half:
                value = value + penalty(basis_2, reference, strength, "cosine").value
            value.backward()
            optimizer.step()
    torch.testing.assert_close(basis, basis_2)
    torch.testing.assert_close(logits, logits_2)


def test_the_strength_is_ramped_up_between_a_fifth_and_four_fifths() -> None:
    values = [recipe.ramp(2.0, step, 10) for step in range(11)]
    assert values == [0.0, 0.0, 0.0, 2 / 6, 4 / 6, 1.0, 8 / 6, 10 / 6, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("users", [[], [torch.zeros(0, 3)], [torch.ones(2, 3), torch.ones(2, 4)], [torch.ones(3)]])
def test_tensors_that_are_no_pairs_are_refused(users: list[torch.Tensor]) -> None:
    with pytest.raises(ShapeError, match=r"must be \[pairs, dim\] of one dim"):
        recipe.stack_users(users)

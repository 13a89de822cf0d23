"""The published recipes: Adam on basis and weights, jointly or in turn, for a fixed number of steps.

For comparison with `fit_basis` and `fit_weights`, which converge and say so (Bose et al. 2025, section 4 and appendix;
the objectives as in `lore.solvers.objective`, with its temperature of 100). Logits are what a softmax makes weights of.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from lore.errors import ShapeError
from lore.solvers.objective import Likelihood, PenaltyKind, pair_loss, penalty
from lore.solvers.simplex import from_logits

_PRUNED = 1e-2  # a direction is dropped if no user's weight on it reaches this
TEMPERATURE = 100.0  # Bose et al. 2025 divide margins by this


def stack_users(users: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """All rows `[pairs, dim]` of one tensor a user, and the user of each row, `[pairs]`.

    Raises:
        ShapeError: no user has a pair, or the tensors are not all `[pairs, dim]`.
    """
    dims = {user_pairs.shape[1:] for user_pairs in users if len(user_pairs)}
    if len(dims) != 1 or len(next(iter(dims))) != 1:
        raise ShapeError("the users' tensors must be [pairs, dim] of one dim, and one at least must have pairs")
    rows = torch.cat([user_pairs for user_pairs in users if len(user_pairs)])
    counts = torch.tensor([len(user_pairs) for user_pairs in users], device=rows.device)
    return rows, torch.arange(len(users), device=rows.device).repeat_interleave(counts)


def summed_means(rows: Tensor, user: Tensor) -> Likelihood:
    """Return the loss of differences `[pairs, dim]` that sums over users the means over their pairs."""
    return _table(rows, user, 1 / torch.bincount(user)[user].to(rows))


def mean(rows: Tensor, user: Tensor) -> Likelihood:
    """Return the loss of differences `[pairs, dim]` that is the mean over all pairs."""
    return _table(rows, user, torch.full_like(rows[:, 0], 1 / len(rows)))


def _table(rows: Tensor, user: Tensor, share: Tensor) -> Likelihood:
    every = torch.arange(len(rows), device=rows.device)
    return Likelihood(rows, every, None, user, torch.ones_like(share), share, TEMPERATURE)


class _Projected(torch.autograd.Function):
    """`Likelihood.project`, for autograd."""

    @staticmethod
    def forward(context: Any, table: Likelihood, basis: Tensor) -> Tensor:
        context.table = table
        return table.project(basis)

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> tuple[None, Tensor]:
        return None, context.table.project_transposed(slopes[0])


def projected(table: Likelihood, basis: Tensor) -> Tensor:
    """Differences in coordinates of the basis, `[pairs, rank]`, differentiable by the basis."""
    return cast(Tensor, _Projected.apply(table, basis))  # type: ignore[no-untyped-call]


def loss(table: Likelihood, coordinates: Tensor, logits: Tensor) -> Tensor:
    """Return the loss at `projected` pairs and logits `[users, rank]`, differentiable by both."""
    margin = table.margins(coordinates, from_logits(logits))
    return (table.share * pair_loss(margin, table.label, table.temperature)).sum()


def drawn(basis: Tensor, reference: Tensor, strength: float, kind: PenaltyKind) -> Tensor:
    """Return the penalty on a basis, differentiable, in its dtype."""
    return penalty(basis, reference.to(basis), strength, kind).value.to(basis)


def joint_adam(
    table: Likelihood, logits: Tensor, basis: Tensor, reference: Tensor, strength: float, *, steps: int, rate: float
) -> None:
    """One Adam over logits and basis with the distance penalty; both are changed in place."""
    optimizer = torch.optim.Adam([logits, basis], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(table, projected(table, basis), logits) + drawn(basis, reference, strength, "distance")
        value.backward()
        optimizer.step()


def alternating_adam(
    table: Likelihood,
    logits: Tensor,
    basis: Tensor,
    reference: Tensor,
    strengths: Sequence[float],
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
) -> None:
    """Logits and basis in turn, each by its own optimizer; with the cosine penalty at the strength of each step."""
    of_logits, of_basis = optimizers
    for strength in strengths:
        coordinates = projected(table, basis)  # of both halves: the first one leaves the basis as it is
        of_logits.zero_grad()
        loss(table, coordinates.detach(), logits).backward()
        of_logits.step()
        of_basis.zero_grad()
        value = loss(table, coordinates, logits.detach())
        (value + drawn(basis, reference, strength, "cosine") if strength > 0 else value).backward()
        of_basis.step()


def ramp(strength: float, step: int, steps: int) -> float:
    """Return the strength at a step: 0 for a fifth of the steps, then linear up to all of it at four fifths."""
    first, last = int(0.2 * steps), int(0.8 * steps)
    if step < first:
        return 0.0
    return strength if step >= last else strength * (step - first) / (last - first)


def few_shot_adam(table: Likelihood, logits: Tensor, basis: Tensor, *, steps: int, rate: float) -> Tensor:
    """Logits `[users, rank]` after Adam with the basis frozen; the pairs are projected once."""
    coordinates, learned = table.project(basis.detach()), logits.detach().clone()
    optimizer = torch.optim.Adam([learned], lr=rate)
    with torch.no_grad():
        for _ in range(steps):
            weights = from_logits(learned)
            slope = table.weights_gradient(coordinates, weights) * weights
            learned.grad = slope - weights * slope.sum(dim=1, keepdim=True)
            optimizer.step()
    return learned


def pruned(weights: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and basis without the directions to which no user gives 1 %; the weights sum to one again."""
    mask = weights.max(dim=0).values >= _PRUNED
    return weights[:, mask] / weights[:, mask].sum(dim=1, keepdim=True), basis[:, mask]

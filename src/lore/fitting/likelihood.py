"""The likelihood of pairs, and users' own problems, as the solvers take them."""

import torch
from torch import Tensor

from lore.pairs.table import Pairs
from lore.solvers.objective import Average, Likelihood, pair_shares
from lore.solvers.preconditioners import Spectrum, spectrum
from lore.solvers.user_problems import UserProblems

_SAMPLE = 4_096  # pairs from which the spectrum is estimated

GAUSSIAN_TOLERANCE = 1e-12  # gap of users' weights; as the objective is 1-strongly convex, they are within 1.5e-6


def likelihood(pairs: Pairs, average: Average, temperature: float) -> Likelihood:
    """Return the loss of some pairs as a function of basis and weights."""
    return Likelihood(
        vectors=pairs.vectors,
        chosen=pairs.chosen,
        rejected=pairs.rejected,
        user=pairs.user,
        label=pairs.label,
        share=pair_shares(pairs.user, pairs.weight, len(pairs.users), average),
        temperature=temperature,
    )


def spectrum_of(pairs: Pairs, seed: int) -> Spectrum:
    """Estimate the spectrum of the pairs' differences, from at most 4,096 of them."""
    some = pairs.select(torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[:_SAMPLE])
    return spectrum(some.differences(), seed)


def simplex_problems(pairs: Pairs, temperature: float) -> UserProblems:
    """Return the users' own problems: each a weighted mean over the user's pairs."""
    share = pair_shares(pairs.user, pairs.weight, len(pairs.users), "users")
    active = (total_weights(pairs) > 0).sum()
    return UserProblems(pairs.user, pairs.label, share * active, len(pairs.users), temperature)


def total_weights(pairs: Pairs) -> Tensor:
    """Sum the pair weights of each user, `[users]`."""
    totals = torch.zeros(len(pairs.users), dtype=pairs.weight.dtype, device=pairs.weight.device)
    return totals.index_add_(0, pairs.user, pairs.weight)


def gaussian_problems(pairs: Pairs, temperature: float) -> UserProblems:
    """Users' problems at update time: pair weights over each user's `design_effect`."""
    share = pairs.weight / design_effect(pairs).to(pairs.weight)[pairs.user]
    return UserProblems(pairs.user, pairs.label, share, len(pairs.users), temperature)


def design_effect(pairs: Pairs) -> Tensor:
    """Return n / n_effective of each user's pairs (Kish 1965), `[users]`, 1 at least.

    Pairs that share items are not independent: n items give n - 1 independent comparisons, and so the pairs count
    `pairs / (n - 1)` times too much. Where an item is in two pairs or more, at least 2, as features miss what an item
    has for all users: with less, probabilities were too sure of themselves (docs/results.md). Pairs whose items are
    all distinct, and pairs made from differences, which have no items, count in full; those of weight 0 do not count.
    """
    if not bool((pairs.weight > 0).all()):
        pairs = pairs.select(pairs.weight > 0)
    if pairs.rejected is None or len(pairs) == 0:
        return torch.ones(len(pairs.users), device=pairs.user.device)
    sides = torch.cat([pairs.chosen, pairs.rejected])
    first, second = torch.stack([pairs.chosen, pairs.rejected]).sort(dim=0).values
    items = _distinct(pairs.user.repeat(2), sides, len(pairs.users))
    count = _distinct(pairs.user, first * len(pairs.vectors) + second, len(pairs.users))
    return torch.maximum(count / (items - 1).clamp(min=1), (2 * count / items.clamp(min=1)).clamp(min=1.0, max=2.0))


def _distinct(user: Tensor, value: Tensor, users: int) -> Tensor:
    """Count the different values of each user, `[users]`."""
    values, number = value.unique(return_inverse=True)
    return torch.bincount((user * len(values) + number).unique() // len(values), minlength=users)

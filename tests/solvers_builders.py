import torch

from lore.solvers.user_problems import UserProblems


def choices_of(users: int, pairs_each: int, rank: int, scale: float) -> tuple[UserProblems, torch.Tensor]:
    rng = torch.Generator().manual_seed(rank)
    projected = torch.randn(users * pairs_each, rank, generator=rng, dtype=torch.float64) * scale
    user = torch.arange(users).repeat_interleave(pairs_each)
    ones = torch.ones(len(user), dtype=torch.float64)
    return UserProblems(user, ones, ones / pairs_each, users, 1.0), projected

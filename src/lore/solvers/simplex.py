"""The probability simplex: all weights that are not negative and sum to one.

Every function works on the last dimension and follows the device and dtype of its input.
"""

import torch
from torch import Tensor


def from_logits(logits: Tensor) -> Tensor:
    """Weights `softmax(logits)`, `[users, rank]`, from unconstrained `logits` of the same shape."""
    return torch.softmax(logits, dim=-1)


def entropy(weights: Tensor) -> Tensor:
    """Entropy of each row in nats, `[users]`: 0 at a vertex, log(rank) at the center."""
    return -torch.special.xlogy(weights, weights).sum(dim=-1)


def divergence(population: Tensor, weights: Tensor) -> Tensor:
    """Kullback-Leibler divergence `KL(population || weights)` in nats, `[users]`.

    Args:
        population: one distribution, `[rank]`.
        weights: `[users, rank]`; infinite where a user gives nothing to a direction that the population uses.
    """
    return (torch.special.xlogy(population, population) - torch.special.xlogy(population, weights)).sum(dim=-1)


def uniform(users: int, rank: int, like: Tensor) -> Tensor:
    """Equal weights, `[users, rank]`, in the dtype and on the device of `like`."""
    return torch.full((users, rank), 1 / rank, dtype=like.dtype, device=like.device)

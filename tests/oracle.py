"""The slow, obvious versions: loops over users and pairs, autograd, plain Adam."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


def margin_of(vectors: Tensor, chosen: int, rejected: int | None, basis: Tensor, weights: Tensor) -> Tensor:
    difference = vectors[chosen] if rejected is None else vectors[chosen] - vectors[rejected]
    return difference @ (basis @ weights)


def loss(pairs, basis: Tensor, weights: Tensor, average: str = "users", temperature: float = 1.0) -> Tensor:
    """The data loss of docs/model.md, pair by pair."""
    by_user: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for at in range(len(pairs)):
        rejected = None if pairs.rejected is None else int(pairs.rejected[at])
        user = int(pairs.user[at])
        m = margin_of(pairs.vectors, int(pairs.chosen[at]), rejected, basis, weights[user]) / temperature
        y = pairs.label[at]
        softplus = torch.nn.functional.softplus
        by_user.setdefault(user, []).append((pairs.weight[at], y * softplus(-m) + (1 - y) * softplus(m)))
    if average == "pairs":
        everything = [entry for entries in by_user.values() for entry in entries]
        return sum(v * one for v, one in everything) / sum(v for v, _ in everything)
    means = [
        sum(v * one for v, one in entries) / sum(v for v, _ in entries)
        for entries in by_user.values()
        if sum(v for v, _ in entries) > 0
    ]
    return sum(means) / len(means)


def penalty(basis: Tensor, reference: Tensor, strength: float, kind: str) -> Tensor:
    columns = [basis[:, k] for k in range(basis.shape[1])]
    if kind == "distance":
        return strength * sum(((column - reference) ** 2).sum() for column in columns)
    cosines = [column @ reference / (column.norm() * reference.norm()) for column in columns]
    return strength * sum(1 - cosine for cosine in cosines) / len(columns)


def divergence(population: Tensor, weights: Tensor) -> Tensor:
    return torch.stack(
        [sum(p * (p / w).log() for p, w in zip(population, row, strict=True) if p > 0) for row in weights]
    )


def best_weights(
    projected: Tensor, strength: float, population: Tensor, steps: int = 4_000, temperature: float = 1.0
) -> tuple[Tensor, float]:
    """One user's weights by exponentiated gradient with a small step, run long."""
    w = torch.full_like(population, 1 / len(population))
    step = 0.5 / max(float(projected.abs().max()) / temperature, 1.0)
    for _ in range(steps):
        z = projected @ w / temperature
        gradient = (-(torch.sigmoid(-z))[:, None] * projected / temperature).mean(0) - strength * population / w
        w = w * torch.exp(-step * (gradient - gradient.min()).clamp(max=50))
        w = (w / w.sum()).clamp(min=1e-14)
        w = w / w.sum()
    value = torch.nn.functional.softplus(-projected @ w / temperature).mean()
    return w, float(value + strength * (torch.special.xlogy(population, population / w)).sum())


class Recipe(NamedTuple):
    """What joint Adam ends at: the lowest objective on its way and the last, the last basis and weights."""

    objective: float
    last: float
    basis: Tensor
    weights: Tensor


def adam(pairs, rank: int, strength: float, reference: Tensor, steps: int, rate: float, seed: int) -> Recipe:
    """Joint Adam on basis and logits from a normal start, as in the published code (distance penalty)."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(pairs.users), rank, generator=rng, dtype=pairs.vectors.dtype).requires_grad_()
    basis = torch.randn(pairs.dim, rank, generator=rng, dtype=pairs.vectors.dtype).requires_grad_()
    optimizer = torch.optim.Adam([logits, basis], lr=rate)
    counts = pairs.counts.to(pairs.vectors)
    share = 1 / counts[pairs.user] / (counts > 0).sum()
    best = math.inf
    for _ in range(steps):
        optimizer.zero_grad()
        weights = torch.softmax(logits, 1)
        m = (differences_in(pairs, basis) * weights[pairs.user]).sum(1)
        value = (share * torch.nn.functional.softplus(-m)).sum() + strength * ((basis - reference[:, None]) ** 2).sum()
        value.backward()
        best = min(best, float(value.detach()))
        optimizer.step()
    return Recipe(best, float(value.detach()), basis.detach(), torch.softmax(logits.detach(), 1))


def differences_in(pairs, basis: Tensor) -> Tensor:
    """Chosen minus rejected in coordinates of a basis, `[pairs, rank]`."""
    rows = pairs.vectors @ basis
    return rows[pairs.chosen] - (0 if pairs.rejected is None else rows[pairs.rejected])


def few_shot_adam(pairs, basis: Tensor, steps: int, rate: float, seed: int) -> Tensor:
    """Weights of each user by Adam on their logits, the basis frozen, as in the published code."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(pairs.users), basis.shape[1], generator=rng, dtype=basis.dtype).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=rate)
    share = 1 / pairs.counts.to(basis)[pairs.user]
    projected = differences_in(pairs, basis)
    for _ in range(steps):
        optimizer.zero_grad()
        m = (projected * torch.softmax(logits, 1)[pairs.user]).sum(1)
        (share * torch.nn.functional.softplus(-m)).sum().backward()
        optimizer.step()
    return torch.softmax(logits.detach(), 1)


def accuracy(pairs, basis: Tensor, center: Tensor, weights: Tensor) -> list[float]:
    """Share of right pairs of each user, ties one half; NaN without pairs."""
    right: dict[int, list[float]] = {}
    for at in range(len(pairs)):
        user = int(pairs.user[at])
        difference = pairs.vectors[pairs.chosen[at]] - (
            0 if pairs.rejected is None else pairs.vectors[pairs.rejected[at]]
        )
        m = float(difference @ (center + basis @ weights[user]))
        right.setdefault(user, []).append(1.0 if m > 0 else 0.5 if m == 0 else 0.0)
    return [sum(right[u]) / len(right[u]) if u in right else math.nan for u in range(len(pairs.users))]


def alternating_adam(pairs, rank: int, strength: float, reference: Tensor, steps: int, rate: float, seed: int) -> float:
    """The objective that Adam on weights and basis in turn reaches: mean over pairs, cosine penalty, ramped up."""
    rng = torch.Generator().manual_seed(seed)
    like = pairs.vectors.dtype
    logits = torch.rand(len(pairs.users), rank, generator=rng, dtype=like).requires_grad_()
    basis = torch.randn(pairs.dim, rank, generator=rng, dtype=like).requires_grad_()
    optimizers = [torch.optim.Adam([part], lr=rate) for part in (logits, basis)]

    def value(ramp: float) -> Tensor:
        m = (differences_in(pairs, basis) * torch.softmax(logits, 1)[pairs.user]).sum(1)
        cosines = torch.nn.functional.cosine_similarity(basis, reference[:, None], dim=0)
        return torch.nn.functional.softplus(-m).mean() + ramp * strength * (1 - cosines).mean()

    for step in range(steps):
        ramp = min(max((step / steps - 0.2) / 0.6, 0.0), 1.0)
        for optimizer in optimizers:
            optimizer.zero_grad()
            value(ramp).backward()
            optimizer.step()
    return float(value(1.0).detach())

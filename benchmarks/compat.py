"""The documented names beside a plain re-statement of the documented loops, in one run: ratios of seconds.

python benchmarks/compat.py
"""

from collections.abc import Callable

import numpy as np
import torch
from engine import timed
from torch import Tensor
from torch.nn import functional

from lore import compat

USERS, PAIRS, DIM, RANK, SEED = 1_000, 47, 4_096, 5, 0
REPEATS, STEPS = 3, 40
Job = Callable[[], object]


def seconds(job: Job, repeats: int = REPEATS) -> float:
    return timed(job, repeats)[0]


def planted(users: int, pairs: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(SEED)
    return [torch.randn(pairs, DIM, generator=rng) for _ in range(users)]


def plain_joint(own: list[Tensor], steps: int) -> None:
    """Joint Adam, user after user."""
    logits, basis = torch.randn(len(own), RANK).requires_grad_(), torch.randn(DIM, RANK).requires_grad_()
    optimizer = torch.optim.Adam([logits, basis], lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        weights = torch.softmax(logits, dim=1)
        losses = [-functional.logsigmoid(rows @ basis @ w / 100).mean() for rows, w in zip(own, weights, strict=True)]
        torch.stack(losses).sum().backward()
        optimizer.step()


def plain_alternating(own: list[Tensor], rank: int, steps: int) -> None:
    """Adam in turn; every pair is scored under every user, and its own is picked."""
    rows, user = torch.cat(own), torch.arange(len(own)).repeat_interleave(len(own[0]))
    logits, basis = torch.rand(len(own), rank).requires_grad_(), torch.randn(DIM, rank).requires_grad_()
    reference = torch.ones(DIM, 1)
    optimizers = [torch.optim.Adam([part], lr=0.5) for part in (logits, basis)]
    for _ in range(steps):
        for half, optimizer in enumerate(optimizers):
            optimizer.zero_grad()
            scores = rows @ (basis @ torch.softmax(logits, dim=1).T)
            loss = -functional.logsigmoid(scores[torch.arange(len(rows)), user] / 100).mean()
            if half:
                loss = loss + (1 - functional.cosine_similarity(basis, reference, dim=0)).mean()
            loss.backward()
            optimizer.step()


def plain_few_shot(own: list[Tensor], basis: Tensor, steps: int) -> None:
    """Adam on one vector a user, the pairs projected anew at every step."""
    logits = [torch.randn(basis.shape[1]).requires_grad_() for _ in own]
    optimizer = torch.optim.Adam(logits, lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        losses = [
            -functional.logsigmoid(rows @ (basis @ torch.softmax(w, dim=0)) / 100).mean()
            for rows, w in zip(own, logits, strict=True)
        ]
        torch.stack(losses).sum().backward()
        optimizer.step()


def plain_population(scores: np.ndarray, features: Tensor, weights: np.ndarray, share: float) -> list[Tensor]:
    """Every user's every prompt in a loop, then a share of them."""
    dense = []
    for w in weights:
        rewards = [prompt @ w for prompt in scores]
        dense.append(torch.stack([row[r.argmax()] - row[r.argmin()] for row, r in zip(features, rewards, strict=True)]))
    whole = torch.stack(dense)
    kept = int(share * len(scores))
    return [own[torch.from_numpy(np.random.choice(len(scores), kept, replace=False))] for own in whole]


def report(name: str, plain: float, ours: float, asked: int, unit: str) -> None:
    print(f"| {name} | {plain:.3g} | {ours:.3g} | {plain / ours:.0f} (asked: {asked}) | {unit} |", flush=True)


def main() -> None:
    torch.manual_seed(SEED)
    np.random.seed(SEED)
    print("| documented name | plain | ours | ratio | seconds of |\n|---|---|---|---|---|")
    own, reference = planted(USERS, PAIRS), torch.ones(DIM)
    joint = seconds(lambda: compat.LoRe(reference, 0.0, USERS, DIM, RANK, STEPS, 0.5).train(own)) / STEPS
    report("`LoRe.train`", seconds(lambda: plain_joint(own, 2)) / 2, joint, 3, "a step")
    regularized = compat.LoRe_regularized(reference, 1e4, USERS, DIM, 25, STEPS, 0.5)
    alternating = seconds(lambda: regularized.train(own), 1) / STEPS
    report("`LoRe_regularized.train`", seconds(lambda: plain_alternating(own, 25, 1), 1), alternating, 25, "a step")
    shots, basis = planted(500, 9), torch.randn(DIM, RANK)
    few = seconds(lambda: compat.learn_multiple_few_shot(shots, basis, 500, 0.1))
    plain = 50 * seconds(lambda: plain_few_shot(shots, basis, 10))
    report("`learn_multiple_few_shot`", plain, few, 100, "500 steps (plain: 10 steps, times 50)")
    rng = np.random.default_rng(SEED)
    scores, weights = rng.normal(size=(1_000, 8, 10)), rng.dirichlet(np.full(10, 0.1), size=100)
    features = torch.randn(1_000, 8, DIM)
    population = seconds(
        lambda: compat.create_sparse_tensor(compat.simulate_population(scores, features, weights), 0.005)
    )
    plain = seconds(lambda: plain_population(scores, features, weights, 0.005), 1)
    report("`simulate_population`, `create_sparse_tensor`", plain, population, 20, "100 users, 1,000 prompts, 0.5 %")


if __name__ == "__main__":
    main()

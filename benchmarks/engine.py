"""What fitting costs, in reads of the data: the jobs of docs/performance.md, as a table and as JSON.

One *read* is the median time of `X @ v` for the same `X` in the same run. Data are synthetic: embeddings with a
decaying spectrum in a random rotation, a common taste and ten heads, users who mix the heads (Dirichlet 0.1).

    python benchmarks/engine.py [A B C D E F G "Adam on A" "Adam on C"]
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from lore.evaluation.metrics import accuracy
from lore.fitting.basis import RewardBasis
from lore.fitting.fit import FitConfig, fit_bases, fit_basis
from lore.fitting.personalize import fit_weights
from lore.pairs.table import Pairs
from lore.solvers.simplex_weights import SimplexPrior, simplex_weights
from lore.solvers.user_problems import UserProblems

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import oracle

USERS, PAIRS, DIM, HEADS, SEED = 1_000, 47, 4_096, 10, 0
Figures = dict[str, Any]


def rotation(rng: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(DIM, DIM, generator=rng)).Q


def embeddings(rows: int, rng: torch.Generator, rotated: Tensor) -> Tensor:
    """`[rows, DIM]` of mean squared length 1, variance along the j-th direction in proportion to 1 / (1 + j)."""
    decay = (1 + torch.arange(DIM)).rsqrt()
    return torch.randn(rows, DIM, generator=rng) * (decay / decay.norm()) @ rotated.T


def heads(sample: Tensor, rng: torch.Generator, rotated: Tensor) -> Tensor:
    """Ten directions `[DIM, HEADS]` that share half of their variance, rewards of standard deviation 2."""
    taste = torch.randn(DIM, 1, generator=rng) + torch.randn(DIM, HEADS, generator=rng)
    found = rotated @ (taste * torch.exp(-torch.arange(DIM) / 300)[:, None])
    return 2 * found / (sample @ found).std(dim=0)


def mixtures(users: int, rng: torch.Generator) -> Tensor:
    return torch._sample_dirichlet(torch.full((users, HEADS), 0.1), generator=rng)


def paired(rng: torch.Generator) -> tuple[Pairs, Tensor]:
    """1000 users with 47 noisy choices each, as differences; and a reference near the mean of the heads."""
    rotated = rotation(rng)
    vectors = embeddings(USERS * PAIRS, rng, rotated)
    directions = heads(vectors[:4_096], rng, rotated)
    user = torch.arange(USERS).repeat_interleave(PAIRS)
    margin = (vectors @ directions * mixtures(USERS, rng)[user]).sum(dim=1)
    wins = torch.rand(len(vectors), generator=rng) < torch.sigmoid(margin)
    vectors *= torch.where(wins, 1.0, -1.0)[:, None]
    reference = directions.mean(dim=1)
    reference += 0.3 * reference.norm() * functional.normalize(torch.randn(DIM, generator=rng), dim=0)
    return Pairs.from_rows(vectors, torch.arange(len(vectors)), None, user), reference


def on_device(pairs: Pairs, device: str) -> Pairs:
    """The same pairs, all tensors on a device."""
    tensors: dict[str, Any] = {
        name: value.to(device) for name, value in vars(pairs).items() if isinstance(value, Tensor)
    }
    return replace(pairs, **tensors)


def longer(pairs: Pairs, reference: Tensor) -> tuple[Pairs, Tensor]:
    """The same choices with twice the length: as if the temperature were a half."""
    return replace(pairs, vectors=pairs.vectors * 2), reference


def timed(job: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median seconds, and the last result; a GPU's work is waited for."""
    seconds, result = [], None
    for _ in range(repeats):
        begin = time.perf_counter()
        result = job()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return median(seconds), result


def one_read(vectors: Tensor) -> float:
    direction = torch.randn(vectors.shape[1]).to(vectors)
    return timed(lambda: vectors @ direction, 9)[0]


def job_a(pairs: Pairs, reference: Tensor) -> Figures:
    config = FitConfig(rank=5, strength=1e-4, weight_strength=0.0)
    seconds, fit = timed(lambda: fit_basis(pairs, config, reference), 5)
    return {"seconds": seconds, "objective": fit.objective, "optimality": fit.optimality, "steps": len(fit.history)}


def adam_a(pairs: Pairs, reference: Tensor) -> Figures:
    seconds, recipe = timed(lambda: oracle.adam(pairs, 5, 1e-4, reference, 1_000, 0.5, SEED), 1)
    return {"seconds": seconds, "objective": recipe.last, "lowest_on_the_way": recipe.objective}


def adam_c(pairs: Pairs, reference: Tensor) -> Figures:
    seconds, objective = timed(lambda: oracle.alternating_adam(pairs, 25, 1e4, reference, 2_000, 0.5, SEED), 1)
    return {"seconds": seconds, "objective": objective}


def job_b(pairs: Pairs, reference: Tensor) -> Figures:
    configs = [
        FitConfig(rank=rank, strength=strength, weight_strength=0.0)
        for rank in range(1, 6)
        for strength in (1e-3, 3e-4, 1e-4, 3e-5)
    ]
    seconds, fits = timed(lambda: fit_bases(pairs, configs, reference), 3)
    return {
        "seconds": seconds,
        "objective": [fit.objective for fit in fits],
        "optimality": max(fit.optimality for fit in fits),
        "converged": all(fit.converged for fit in fits),
    }


def job_c(pairs: Pairs, reference: Tensor) -> Figures:
    config = FitConfig(rank=25, strength=1e4, weight_strength=0.0, penalty="cosine", average="pairs")
    seconds, fit = timed(lambda: fit_basis(pairs, config, reference), 5)
    return {"seconds": seconds, "objective": fit.objective, "optimality": fit.optimality, "steps": len(fit.history)}


def job_d(pairs: Pairs, reference: Tensor) -> Figures:
    basis = fit_basis(pairs, FitConfig(rank=5, strength=1e-3, weight_strength=0.0, max_iterations=20), reference).basis
    rows = torch.arange(500 * 9)
    shots = Pairs.from_rows(pairs.vectors[: len(rows)], rows, None, rows // 9)
    seconds, found = timed(lambda: fit_weights(shots, basis), 9)
    return {"seconds": seconds, "gap": float(found.gap.max())}


def job_e(users: int = 1_000_000, block: int = 100_000) -> Figures:
    """In blocks of users: the float64 projections of all of them would be 2 GB."""
    seconds, gap = 0.0, 0.0
    for number in range(users // block):
        rng = torch.Generator().manual_seed(number)
        user = torch.arange(block).repeat_interleave(10)
        projected = 2 * torch.randn(len(user), 25, generator=rng)
        choices = UserProblems(user, torch.ones(len(user)), torch.full((len(user),), 0.1), block, 1.0)
        prior = SimplexPrior(torch.full((25,), 0.04), torch.zeros(block))
        spent, found = timed(partial(simplex_weights, choices, projected, prior, 1e-6), 1)
        seconds, gap = seconds + spent, max(gap, float(found.gap.max()))
    return {"seconds": seconds, "users_per_second": users / seconds, "gap": gap}


def job_f() -> Figures:
    rng = torch.Generator().manual_seed(SEED)
    table = torch.randn(8_000, DIM, generator=rng)
    user = torch.arange(1_500).repeat_interleave(1_000)
    prompt = torch.arange(1_000).repeat(1_500) * 8
    first = torch.randint(8, (len(user),), generator=rng)
    second = (first + torch.randint(1, 8, (len(user),), generator=rng)) % 8
    pairs = Pairs.from_rows(table, prompt + first, prompt + second, user)
    vectors = torch.randn(DIM, 5, generator=rng)
    basis = RewardBasis(vectors, torch.zeros(DIM), torch.full((5,), 0.2), family="simplex", rank=5)
    weights = torch.softmax(torch.randn(1_500, 5, generator=rng), dim=1)
    seconds, found = timed(lambda: accuracy(pairs, basis, weights), 5)
    return {"seconds": seconds, "accuracy": found.mean}


def personalllm_file(path: Path) -> Tensor:
    """75,216 + 8,000 rows in float16, and scores by ten heads `[rows, HEADS]`."""
    rng = torch.Generator().manual_seed(SEED)
    rotated = rotation(rng)
    vectors = embeddings(83_216, rng, rotated)
    scores = vectors @ heads(vectors[:4_096], rng, rotated)
    save_file({"embeddings": (vectors * 100).half()}, path)
    return scores


def best_against_worst(scores: Tensor, mixtures: Tensor, prompts: Tensor, rng: torch.Generator, each: int) -> Pairs:
    """Rows of the best and the worst of eight responses, to `each` random prompts a user, without a table yet."""
    chosen, rejected = [], []
    grouped = scores.view(-1, 8, HEADS)
    for mixture in mixtures:
        own = prompts[torch.randperm(len(prompts), generator=rng)[:each]]
        rewards = grouped[own] @ mixture
        chosen.append(own * 8 + rewards.argmax(dim=1))
        rejected.append(own * 8 + rewards.argmin(dim=1))
    user = torch.arange(len(mixtures)).repeat_interleave(each)
    return Pairs.from_rows(torch.zeros(len(scores), 1), torch.cat(chosen), torch.cat(rejected), user)


def job_g() -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.safetensors"
        scores = personalllm_file(path)
        begin = time.perf_counter()
        found = personalllm(path, scores)
        return {"seconds": time.perf_counter() - begin, "accuracy": found}


def personalllm(path: Path, scores: Tensor, device: str = "cpu") -> dict[int, list[float]]:
    """Sample, fit ranks 0 to 5, adapt, evaluate: accuracy of seen and unseen users on new prompts, by rank."""
    with safe_open(path, "pt", device=device) as file:
        vectors = file.get_tensor("embeddings")
    rng = torch.Generator().manual_seed(SEED)
    train, test = torch.arange(9_402), torch.arange(9_402, 10_402)
    seen, unseen = mixtures(1_000, rng), mixtures(500, rng)
    parts = [
        best_against_worst(scores, mixtures, prompts, rng, each)
        for mixtures, prompts, each in (
            (seen, train, 47),
            (seen, test, 1_000),
            (unseen, train, 9),
            (unseen, test, 1_000),
        )
    ]
    fitted, seen_test, shots, unseen_test = [
        replace(on_device(part, device), vectors=vectors).compact() for part in parts
    ]
    reference = fitted.select(torch.arange(4_096)).differences().mean(dim=0)
    # The temperature of the paper; the embeddings are a hundred times as long as those of the other jobs.
    configs = [FitConfig(rank=rank, strength=1e-4, weight_strength=0.0, temperature=100.0) for rank in range(6)]
    accuracies = {}
    for fit in fit_bases(fitted, configs, reference):
        adapted = fit_weights(shots, fit.basis)
        accuracies[fit.basis.rank] = [
            round(accuracy(seen_test, fit.basis, fit.weights).mean, 4),
            round(accuracy(unseen_test, fit.basis, adapted).mean, 4),
        ]
    return accuracies


def main(names: list[str]) -> None:
    pairs, reference = paired(torch.Generator().manual_seed(SEED))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read = one_read(pairs.vectors)
    jobs: dict[str, Callable[[], Figures]] = {
        "A": lambda: job_a(pairs, reference),
        "B": lambda: job_b(pairs, reference),
        "C": lambda: job_c(pairs, reference),
        "D": lambda: job_d(pairs, reference),
        "E": job_e,
        "F": job_f,
        "G": job_g,
        "Adam on A": lambda: adam_a(pairs, reference),
        "A, longer embeddings": lambda: job_a(*longer(pairs, reference)),
        "Adam on A, longer embeddings": lambda: adam_a(*longer(pairs, reference)),
        "Adam on C": lambda: adam_c(pairs, reference),
    }
    for name in names or list(jobs):
        figures = jobs[name]()
        figures["reads"] = round(figures["seconds"] / read, 2)
        figures["peak_gib_over_data"] = round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20, 2)
        print(json.dumps({"job": name, "read_ms": round(1e3 * read, 1), **figures}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

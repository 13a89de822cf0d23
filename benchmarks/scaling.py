"""Time at a fixed number of evaluations by pairs, users and dim, beside what was predicted; a table and a plot.

python benchmarks/scaling.py docs/scaling.svg
"""

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median

import matplotlib as mpl
import torch
from matplotlib import pyplot

from lore.fitting.cost import Cost
from lore.fitting.cost import evaluation as evaluation_cost
from lore.fitting.simplex_problem import Regularization, Request, SimplexProblem, evaluate_many
from lore.pairs.table import Pairs

RANK, EVALUATIONS, REPEATS = 5, 4, 3


@dataclass(frozen=True)
class Shape:
    """How large a problem is; differences, so that there are as many rows as pairs."""

    pairs: int
    users: int
    dim: int


SERIES = {
    "pairs": [Shape(pairs, 1_000, 64) for pairs in (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)],
    "users": [Shape(10 * users, users, 64) for users in (1_000, 10_000, 100_000, 1_000_000)],
    "dim": [Shape(40_000, 100, dim) for dim in (1_024, 2_048, 4_096, 8_192, 16_384)],
}


def made(shape: Shape) -> Pairs:
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(shape.pairs, shape.dim, generator=rng).mul_(shape.dim**-0.5)
    user = torch.arange(shape.pairs) % shape.users
    return Pairs.from_rows(vectors, torch.arange(shape.pairs), None, user)


def seconds(pairs: Pairs) -> float:
    """Median time of a few evaluations along a straight path, the weights solved at each."""
    regularization = Regularization(pairs.empty.new_zeros(pairs.dim), 1e-4, "distance", 0)
    problem = SimplexProblem.of(pairs, RANK, "users", 1.0, regularization)
    state = problem.first_state
    rng = torch.Generator().manual_seed(1)
    start, step = 2 * torch.randn(2, pairs.dim, RANK, generator=rng)
    (evaluation,) = evaluate_many([Request(problem, start, state)])
    spent = []
    for repeat in range(REPEATS):
        begin = time.perf_counter()
        for number in range(EVALUATIONS):
            basis = start + 0.02 * (repeat * EVALUATIONS + number) * step
            warm = replace(state, weights=evaluation.weights)
            (evaluation,) = evaluate_many([Request(problem, basis, warm)])
        spent.append(time.perf_counter() - begin)
    return median(spent)


def measured() -> Iterator[tuple[str, int, float, float]]:
    """Series, its size, seconds, and the seconds by the cost model's price of an evaluation."""
    seconds(made(Shape(100_000, 1_000, 64)))  # so that the first one does not pay for the start of threads
    for name, shapes in SERIES.items():
        for shape in shapes:
            pairs = made(shape)
            expected = Cost(EVALUATIONS * evaluation_cost(pairs, RANK), numbers=1, bytes=0).seconds()
            yield name, getattr(shape, name), seconds(pairs), expected


def slope(sizes: list[int], times: list[float]) -> float:
    """Of the least-squares line through the logarithms."""
    x, y = torch.tensor(sizes).double().log(), torch.tensor(times).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def main() -> None:
    mpl.use("svg")
    found: dict[str, list[tuple[int, float, float]]] = {}
    print(f"| by | size | seconds, {EVALUATIONS} evaluations | predicted |\n|---|---|---|---|")
    for name, size, spent, expected in measured():
        found.setdefault(name, []).append((size, spent, expected))
        print(f"| {name} | {size:,} | {spent:.3f} | {expected:.3f} |", flush=True)
    figure, axes = pyplot.subplots(1, len(found), figsize=(9, 3), sharey=True, layout="constrained")
    for axis, (name, rows) in zip(axes, found.items(), strict=True):
        sizes, times, _ = (list(column) for column in zip(*rows, strict=True))
        axis.loglog(sizes, times, "o-", label="measured")
        axis.loglog(sizes, [expected for *_, expected in rows], "--", color="gray", label="predicted")
        axis.set(xlabel=name, title=f"slope {slope(sizes, times):.2f}")
        print(f"slope by {name}: {slope(sizes, times):.2f}")
    axes[0].set_ylabel(f"seconds, {EVALUATIONS} evaluations")
    axes[0].legend(frameon=False)
    figure.savefig(sys.argv[1], metadata={"Date": None})
    worst = max(abs(math.log(spent / expected)) for rows in found.values() for _, spent, expected in rows)
    print(f"prediction off by a factor of {math.exp(worst):.1f} at most")


if __name__ == "__main__":
    main()

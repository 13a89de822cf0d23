"""Chosen questions against random ones, for new users: accuracy on held-out groups after 5, 10 and 20 answers.

LORE_DATA=/path/to/data python benchmarks/asking.py SET [SEEDS [FAMILY]]

A question is one of the user's own training pairs; the answer is theirs. Prints a line a seed, and means of the
differences with 95 % intervals over the seeds, in points.
"""

import sys
import warnings

import numpy as np
import torch
from gaussian import STUDENT, pairs_of, split_of

import lore
from lore.errors import ConvergenceWarning
from lore.evaluation.metrics import accuracy
from lore.fitting.basis import Family
from lore.pairs.table import Pairs

SHOTS = (5, 10, 20)


def chosen(pool: Pairs, basis: lore.RewardBasis, user: int) -> list[int]:
    """Positions of the pairs that one user is asked, in order."""
    assert pool.rejected is not None
    own = torch.nonzero(pool.user == user).flatten()
    left = torch.ones(len(own), dtype=torch.bool)
    candidates = torch.stack([pool.chosen[own], pool.rejected[own]], dim=1)
    asked: list[int] = []
    for _ in range(min(max(SHOTS), len(own))):
        answered = lore.fit_weights(
            pool.select(torch.tensor(asked, dtype=torch.long)).for_users(torch.tensor([user])), basis
        )
        open_pairs = torch.nonzero(left).flatten()
        question = lore.next_comparison(answered, basis, pool.vectors, candidates[open_pairs])
        rows = torch.tensor([question.first, question.second])
        position = int(open_pairs[(candidates[open_pairs] == rows).all(dim=1).nonzero()[0, 0]])
        left[position] = False
        asked.append(int(own[position]))
    return asked


def one_seed(parts: lore.Split, seed: int, family: Family) -> list[float]:
    config = lore.FitConfig(family=family, rank="auto" if family == "gaussian" else 4, seed=seed)
    basis = lore.fit_basis(parts.seen_train, config).basis
    pool = parts.unseen_shots.compact()
    orders = [chosen(pool, basis, user) for user in range(len(pool.users))]
    found = []
    for shots in SHOTS:
        asked = torch.tensor([at for order in orders for at in order[:shots]])
        clever = accuracy(parts.unseen_test, basis, lore.fit_weights(pool.select(asked), basis)).mean
        random = [
            accuracy(parts.unseen_test, basis, lore.fit_weights(pool.shots(shots, seed=draw), basis)).mean
            for draw in range(5)
        ]
        found.append(100 * (clever - float(np.mean(random))))
    return found


def main() -> None:
    name = sys.argv[1]
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    family: Family = "simplex" if "simplex" in sys.argv[3:] else "gaussian"
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(1)
    rows = []
    for seed in range(seeds):
        rows.append(one_seed(split_of(name, pairs_of(name, seed), seed, shots=100), seed, family))
        print(seed, [round(value, 2) for value in rows[-1]], flush=True)
    gains = np.array(rows)
    spread = STUDENT.get(seeds, 2.0) * gains.std(axis=0, ddof=1) / seeds**0.5
    for shots, gain, half in zip(SHOTS, gains.mean(axis=0), spread, strict=True):
        print(f"{shots} answers: {gain:+.2f} ± {half:.2f} points over random questions")


if __name__ == "__main__":
    main()

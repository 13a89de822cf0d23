"""Chosen questions against random ones, for new users: accuracy on held-out groups after 5, 10 and 20 answers.

LORE_DATA=/path/to/data python benchmarks/asking.py SET [SPLITS [FAMILY]]

A question is one of the user's own training pairs; the answer is theirs. Prints a line a split, and gains over random
questions in points, with 95 % intervals for new users and new prompts.
"""

import sys
import warnings

import torch
from gaussian import pairs_of, split_of
from over_splits import over_splits

import lore
from lore.errors import ConvergenceWarning
from lore.evaluation.evaluator import HeldOut
from lore.evaluation.metrics import ProjectedPairs, correct
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


def one_split(parts: lore.Split, seed: int, family: Family) -> HeldOut:
    config = lore.FitConfig(family=family, rank="auto" if family == "gaussian" else 4, seed=seed)
    basis = lore.fit_basis(parts.seen_train, config).basis
    pool, test = parts.unseen_shots.compact(), parts.unseen_test
    projected = ProjectedPairs(test, basis)

    def right(trained: Pairs) -> torch.Tensor:
        return correct(test, projected.margins(lore.fit_weights(trained, basis)))

    orders = [chosen(pool, basis, user) for user in range(len(pool.users))]
    found = {}
    for shots in SHOTS:
        asked = torch.tensor([at for order in orders for at in order[:shots]])
        found[f"chosen {shots}"] = right(pool.select(asked))
        found[f"random {shots}"] = torch.stack([right(pool.shots(shots, seed=draw)) for draw in range(5)]).mean(0)
    return HeldOut(test, found)


def main() -> None:
    name = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    family: Family = "simplex" if "simplex" in sys.argv[3:] else "gaussian"
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(1)
    pairs, splits = pairs_of(name), []
    for seed in range(count):
        splits.append({"unseen_test": one_split(split_of(name, pairs, seed, shots=100), seed, family)})
        print(f"split {seed + 1} of {count}", file=sys.stderr, flush=True)
    over = over_splits(splits, "unseen_test")
    for shots in SHOTS:
        print(f"{shots} answers: {over.gain(f'chosen {shots}', f'random {shots}')} points over random questions")


if __name__ == "__main__":
    main()

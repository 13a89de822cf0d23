"""The cost of a user under the gaussian family: posteriors, one update, one question.

python benchmarks/users.py
"""

import json

import torch
from engine import timed

import lore
from lore.fitting.personalize import fit_weights
from lore.pairs.table import Pairs
from lore.solvers.gaussian_weights import gaussian_weights
from lore.solvers.user_problems import UserProblems


def posteriors(users: int, columns: int, rng: torch.Generator) -> float:
    """Users a second from ten projected pairs each."""
    user = torch.arange(users).repeat_interleave(10)
    choices = UserProblems(user, torch.ones(len(user)), torch.full((len(user),), 0.5), users, 1.0)
    projected = torch.randn(len(user), columns, generator=rng) / columns**0.5
    offset = torch.randn(len(user), generator=rng)
    return users / timed(lambda: gaussian_weights(choices, projected, offset, 1e-6), 3)[0]


def one_user(columns: int, rng: torch.Generator) -> tuple[lore.RewardBasis, Pairs]:
    """A basis, and one user with fifty pairs."""
    vectors = torch.randn(20_000, 384, generator=rng)
    basis = lore.RewardBasis(
        torch.randn(384, columns, generator=rng) / 20, torch.randn(384, generator=rng) / 20, torch.zeros(columns),
        "gaussian", min(columns, 8),
    )  # fmt: skip
    chosen, rejected = torch.randint(len(vectors), (2, 50), generator=rng)
    return basis, Pairs.from_rows(vectors, chosen, rejected, torch.zeros(50, dtype=torch.long))


def main() -> None:
    rng = torch.Generator().manual_seed(0)
    found: dict[str, float] = {
        "users_per_second_8_columns": round(posteriors(100_000, 8, rng)),
        "users_per_second_80_columns": round(posteriors(5_000, 80, rng)),
    }
    basis, pairs = one_user(80, rng)
    found["one_update_ms_80_columns_50_pairs"] = round(1e3 * timed(lambda: fit_weights(pairs, basis), 30)[0], 2)
    basis, pairs = one_user(25, rng)
    weights = fit_weights(pairs, basis)
    found["one_update_ms_25_columns_50_pairs"] = round(1e3 * timed(lambda: fit_weights(pairs, basis), 30)[0], 2)
    candidates = torch.randint(len(pairs.vectors), (100_000, 2), generator=rng)
    found["one_question_ms_100000_candidates_25_columns"] = round(
        1e3 * timed(lambda: lore.next_comparison(weights, basis, pairs.vectors, candidates), 15)[0], 1
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()

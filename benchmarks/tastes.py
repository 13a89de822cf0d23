"""Is the number of tastes found? Users with 2, 4 or 8 planted tastes judge the demo's responses.

python benchmarks/tastes.py [SEEDS]

A user's reward is a common direction and planted ones, of equal strength and unrelated to one another, over the
features that tastes are learned in; 300 users judge 30 pairs of responses each, by the logistic link. Prints planted
and found numbers for each seed.
"""

import json
import sys
from dataclasses import replace

import torch
from gaussian import demo

import lore
from lore.fitting.gaussian_model import item_features
from lore.pairs.table import Pairs

PLANTED = (2, 4, 8)
COMMON = 0.15  # of the common direction, along each feature
STRENGTH = 2.0  # standard deviation of a taste among users, along its direction


def planted(pairs: Pairs, tastes: int, seed: int) -> Pairs:
    """The same pairs, as users with some tastes judge them."""
    rng = torch.Generator().manual_seed(seed)
    features = (pairs.vectors @ item_features(pairs)).double()
    directions = torch.linalg.qr(torch.randn(features.shape[1], tastes, generator=rng, dtype=torch.float64)).Q
    common = COMMON * torch.randn(features.shape[1], generator=rng, dtype=torch.float64)
    own = STRENGTH * torch.randn(len(pairs.users), tastes, generator=rng, dtype=torch.float64) @ directions.T
    assert pairs.rejected is not None  # the demo's pairs are of responses
    margin = ((features[pairs.chosen] - features[pairs.rejected]) * (common + own)[pairs.user]).sum(dim=1)
    first = torch.rand(len(pairs), generator=rng, dtype=torch.float64) < torch.sigmoid(margin)
    return replace(
        pairs,
        chosen=torch.where(first, pairs.chosen, pairs.rejected),
        rejected=torch.where(first, pairs.rejected, pairs.chosen),
    )


def main() -> None:
    torch.set_num_threads(1)
    found: dict[int, list[int]] = {tastes: [] for tastes in PLANTED}
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else 10):
        users = lore.split(demo(seed), unseen=0.25, seed=seed).seen_train.shots(30, seed).compact()
        for tastes in PLANTED:
            pairs = planted(users, tastes, seed=100 * seed + tastes)
            fit = lore.fit_basis(pairs, lore.FitConfig(family="gaussian", rank="auto", seed=seed))
            found[tastes].append(fit.basis.rank)
        print(json.dumps({"seed": seed, **{str(tastes): ranks[-1] for tastes, ranks in found.items()}}), flush=True)
    for tastes, ranks in found.items():
        print(
            f"{tastes} planted: {ranks}, within 2 in {sum(abs(rank - tastes) <= 2 for rank in ranks)} of {len(ranks)}"
        )


if __name__ == "__main__":
    main()

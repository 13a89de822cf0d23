"""How often intervals of a gain cover the truth: over users alone, over users and prompts, and by resampling both.

python benchmarks/intervals.py [WORLDS]
"""

import sys

import numpy as np
import torch

from lore.evaluation.intervals import Sample
from lore.pairs.table import Pairs

GAIN, DISAGREEMENT = 0.03, 0.3  # true gain; share of choices that the two models predict differently
SIZES = [(10, 30, 20), (41, 100, 15), (100, 10, 8), (100, 100, 15), (200, 20, 10), (200, 500, 10)]
SPREADS = [(0.0, 0.0), (0.05, 0.0), (0.05, 0.08), (0.02, 0.12)]  # of the gain over users, over prompts
RESAMPLES = 200


def world(size: tuple[int, int, int], spreads: tuple[float, float], seed: int) -> tuple[Pairs, torch.Tensor]:
    """Draw choices of users on prompts, and how much more right one model is in each than another."""
    users, prompts, each = size
    rng = torch.Generator().manual_seed(seed)
    user = torch.arange(users).repeat_interleave(each)
    prompt = torch.randint(prompts, (len(user),), generator=rng)
    group = torch.arange(2 * prompts) // 2
    pairs = Pairs.from_rows(torch.ones(2 * prompts, 1), 2 * prompt, 2 * prompt + 1, user, group=group)
    own = (
        spreads[0] * torch.randn(users, generator=rng)[user] + spreads[1] * torch.randn(prompts, generator=rng)[prompt]
    )
    better = 0.5 + (GAIN + own) / (2 * DISAGREEMENT)
    sign = torch.where(torch.rand(len(user), generator=rng) < better, 1.0, -1.0)
    return pairs, torch.where(torch.rand(len(user), generator=rng) < DISAGREEMENT, sign, 0.0)


def pigeonhole(pairs: Pairs, values: torch.Tensor, rng: np.random.Generator) -> tuple[float, float]:
    """Resample users and prompts, each with replacement (Owen 2007); users count alike."""
    user, prompt = pairs.user.numpy(), pairs.group[pairs.chosen].numpy()
    users, prompts = user.max() + 1, prompt.max() + 1
    means = []
    for _ in range(RESAMPLES):
        drawn = np.bincount(rng.integers(users, size=users), minlength=users)
        count = np.bincount(rng.integers(prompts, size=prompts), minlength=prompts)[prompt].astype(float)
        total, number = np.bincount(user, count * values.numpy()), np.bincount(user, count)
        there = number > 0
        means.append((drawn[there] * total[there] / number[there]).sum() / drawn[there].sum())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def main(worlds: int) -> None:
    print("| users, prompts, choices of each | spreads | users alone | users and prompts | both resampled |")
    print("|---|---|---|---|---|")
    for size in SIZES:
        for spreads in SPREADS:
            covered, width = np.zeros(3), np.zeros(3)
            for seed in range(worlds):
                pairs, values = world(size, spreads, seed)
                found = Sample(pairs).estimate(values)
                these, new = found.these_prompts, found.new_prompts
                ends = [(these.low, these.high), (new.low, new.high)]
                ends.append(pigeonhole(pairs, values, np.random.default_rng(seed)))
                covered += [low <= GAIN <= high for low, high in ends]
                width += [100 * (high - low) / 2 for low, high in ends]
            cells = " | ".join(
                f"{share:.3f} (± {half:.1f})" for share, half in zip(covered / worlds, width / worlds, strict=True)
            )
            print(
                f"| {', '.join(map(str, size))} | {', '.join(f'{100 * spread:.0f}' for spread in spreads)} | {cells} |",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)

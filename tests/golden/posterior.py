"""Writes posterior.json: mean and covariance of exact posteriors of two weights, by integration on a fine grid.

python tests/golden/posterior.py
"""

import json
from pathlib import Path

import torch

CASES = ((3, 0.2), (10, 0.2), (40, 0.1), (200, 0.05))  # choices, and how far Laplace's approximation may be off


def exact(differences: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    axis = torch.linspace(-7, 7, 1_401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    logs = -grid.square().sum(1) / 2
    for difference in differences:
        logs -= torch.nn.functional.softplus(-(grid @ difference))
    density = torch.softmax(logs, dim=0)
    mean = density @ grid
    return mean, (grid - mean).T @ (density[:, None] * (grid - mean))


def main() -> None:
    rng = torch.Generator().manual_seed(0)
    rows = []
    for choices, atol in CASES:
        differences = torch.randn(choices, 2, generator=rng, dtype=torch.float64)
        chance = torch.sigmoid(differences @ torch.tensor([1.0, -0.5]).double())
        wins = torch.rand(choices, generator=rng, dtype=torch.float64) < chance
        differences = torch.where(wins[:, None], differences, -differences)
        mean, covariance = exact(differences)
        rows.append(
            {
                "differences": differences.tolist(),
                "mean": mean.tolist(),
                "covariance": covariance.tolist(),
                "atol": atol,
            }
        )
    Path(__file__).with_suffix(".json").write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()

"""Runs `lore train` on the four public data sets, three seeds each, and prints the tables of docs/results.md.

LORE_DATA=/path/to/data python benchmarks/results.py RUNS > tables.md
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean, median
from typing import Any

SETS = {
    "dices350": "dices350",
    "jester5k": "jester5k",
    "pandalm": "pandalm/comparisons.jsonl",
    "ukpconvarg1": "ukpconvarg1/comparisons.jsonl",
}
SEEDS = (0, 1, 2)
SETTINGS = ("seen_train", "seen_test", "unseen_shots", "unseen_test")
MODELS = ("reference", "pooled", "simplex", "gaussian", "per_user", "wrong_user", "shuffled", "length")


def reports(name: str, runs: Path) -> list[dict[str, Any]]:
    """The reports of all seeds; what is there already is not run again."""
    data = Path(os.environ["LORE_DATA"]) / SETS[name]
    found = []
    for seed in SEEDS:
        folder = runs / f"{name}-{seed}"
        if not (folder / "report.json").exists():
            command = ["lore", "train", str(data), "--out", str(folder), "--seed", str(seed)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(json.loads((folder / "report.json").read_text()))
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Accuracy by model and setting: means over seeds, of the accuracy and of both ends of its interval."""
    cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for report in found:
        for result in report["results"]:
            if result["shots"] is None and result["accuracy"] is not None:
                cells.setdefault(result["model"], {}).setdefault(result["setting"], []).append(result)
    lines = [f"| model | {' | '.join(SETTINGS)} | gain on unseen_test |", "|---" * (len(SETTINGS) + 2) + "|"]
    for model in sorted(cells, key=MODELS.index):
        row = cells[model]
        shown = [cell(row.get(setting, []), "accuracy", "low", "high", signed=False) for setting in SETTINGS]
        gains = (
            "" if model == "pooled" else cell(row.get("unseen_test", []), "gain", "gain_low", "gain_high", signed=True)
        )
        lines.append(f"| {model} | {' | '.join(shown)} | {gains} |")
    return "\n".join(lines)


def cell(results: list[dict[str, Any]], value: str, low: str, high: str, *, signed: bool) -> str:
    if not results:
        return ""
    if any(result[low] is None for result in results):  # fewer than five users
        return f"{100 * mean(result[value] for result in results):{'+' if signed else ''}.1f}"
    numbers = [100 * mean(result[key] for result in results) for key in (value, low, high)]
    form = "{:+.1f} ({:+.1f} to {:+.1f})" if signed else "{:.1f} ({:.1f} to {:.1f})"
    return form.format(*numbers)


def by_seed(found: list[dict[str, Any]]) -> str:
    """Pooled on seen_test and the chosen model's finding, for each seed."""
    lines = []
    pooled = [
        100 * result["accuracy"]
        for report in found
        for result in report["results"]
        if (result["model"], result["setting"]) == ("pooled", "seen_test")
    ]
    lines.append(f"Pooled on seen_test by seed: {', '.join(f'{x:.1f}' for x in pooled)}; median {median(pooled):.1f}.")
    for seed, report in zip(SEEDS, found, strict=True):
        chosen = f"{report['chosen']['family']}, rank {report['chosen']['rank']}"
        lines.append(f"- seed {seed}, {chosen}: “{report['headline']}”")
    return "\n".join(lines)


def main() -> None:
    runs = Path(sys.argv[1])
    for name in SETS:
        found = reports(name, runs)
        print(f"### {name}\n\n{table(found)}\n\n{by_seed(found)}\n", flush=True)


if __name__ == "__main__":
    main()

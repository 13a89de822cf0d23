"""How often a report's headline is right, on simulated worlds whose truth is known; the tables of docs/results.md.

python benchmarks/honesty.py [WORLDS [KIND ...]]
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lore.evaluation.cautions import controls
from lore.evaluation.intervals import MIN_USERS, Interval
from lore.evaluation.metrics import ProjectedPairs, correct, gain
from lore.evaluation.summary import finding_of
from lore.evaluation.sweep import Sweep, held_out_of_split, run_sweep
from lore.fitting.config import FitConfig
from lore.fitting.personalize import fit_weights
from lore.pairs.splits import split
from lore.pairs.table import Pairs

DIM, RESPONSES = 16, 4
FRESH_USERS, FRESH_PROMPTS = 400, 400  # from whom, and on which, the true gain is measured


@dataclass(frozen=True)
class World:
    """A population, and how it was asked.

    Attributes:
        users: how many there are.
        choices: of each user; of every eighth user four times as many.
        prompts: shared by all users; 0 if each user has prompts of their own.
        taste: standard deviation of users' own rewards, that of the common reward being 1.
        missed: standard deviation of what all users like in a response and embeddings do not show.
    """

    users: int
    choices: int
    prompts: int
    taste: float
    missed: float = 0.7


@dataclass(frozen=True)
class Population:
    """What users like: the common reward, directions of taste, and the generator that draws more of everything."""

    common: Tensor
    tastes: Tensor
    rng: torch.Generator

    def users(self, count: int) -> Tensor:
        """Draw directions of users, `[users, dim]`: the common one, and two tastes."""
        weights = torch.randn(count, 2, generator=self.rng, dtype=torch.float64)
        return self.common + weights @ self.tastes

    def responses(self, prompts: int, missed: float) -> tuple[Tensor, Tensor]:
        """Draw embeddings `[rows, dim]` and what they miss `[rows]`."""
        rows = prompts * RESPONSES
        vectors = torch.randn(rows, DIM, generator=self.rng, dtype=torch.float64)
        return vectors, missed * torch.randn(rows, generator=self.rng, dtype=torch.float64)

    def choices(self, users: Tensor, user: Tensor, prompt: Tensor, vectors: Tensor, missed: Tensor) -> Pairs:
        """Let users choose between two responses to prompts; `user` and `prompt` are `[pairs]`."""
        first = torch.randint(RESPONSES, (len(user),), generator=self.rng)
        second = (first + 1 + torch.randint(RESPONSES - 1, (len(user),), generator=self.rng)) % RESPONSES
        rows = torch.stack([RESPONSES * prompt + first, RESPONSES * prompt + second])
        margin = ((vectors[rows[0]] - vectors[rows[1]]) * users[user]).sum(1) + missed[rows[0]] - missed[rows[1]]
        wins = torch.rand(len(user), generator=self.rng, dtype=torch.float64) < torch.sigmoid(margin)
        chosen, rejected = torch.where(wins, rows, rows.flip(0))
        names = [f"u{number}" for number in range(len(users))]
        group = torch.arange(len(vectors)) // RESPONSES
        return Pairs.from_rows(vectors.float(), chosen, rejected, user, users=names, group=group)


def populate(world: World, seed: int) -> tuple[Population, Pairs]:
    """Draw a population and its choices."""
    rng = torch.Generator().manual_seed(seed)
    common = torch.randn(DIM, generator=rng, dtype=torch.float64) / DIM**0.5
    tastes = world.taste * torch.randn(2, DIM, generator=rng, dtype=torch.float64) / (2 * DIM) ** 0.5
    population = Population(common, tastes, rng)
    counts = torch.full((world.users,), world.choices)
    counts[::8] *= 4
    user = torch.arange(world.users).repeat_interleave(counts)
    prompts = world.prompts or len(user)
    prompt = torch.randint(prompts, (len(user),), generator=rng) if world.prompts else torch.arange(len(user))
    vectors, missed = population.responses(prompts, world.missed)
    return population, population.choices(population.users(world.users), user, prompt, vectors, missed)


def true_gain(population: Population, world: World, sweep: Sweep, shots: Pairs) -> float:
    """Measure the gain of a fit over pooled on many new users, who chose as often, and many new prompts."""
    users = population.users(FRESH_USERS)
    counts = shots.counts[torch.randint(len(shots.users), (FRESH_USERS,), generator=population.rng)]
    user = torch.arange(FRESH_USERS).repeat_interleave(counts)
    prompts = max(world.prompts, 50)
    vectors, missed = population.responses(prompts, world.missed)
    prompt = torch.randint(prompts, (len(user),), generator=population.rng)
    weights = fit_weights(population.choices(users, user, prompt, vectors, missed), sweep.chosen.basis)
    vectors, missed = population.responses(FRESH_PROMPTS, world.missed)
    user = torch.arange(FRESH_USERS).repeat_interleave(50)
    test = population.choices(
        users, user, torch.randint(FRESH_PROMPTS, (len(user),), generator=population.rng), vectors, missed
    )
    pooled = ProjectedPairs(test, sweep.pooled.basis).margins(torch.ones(FRESH_USERS, 1))
    own = ProjectedPairs(test, sweep.chosen.basis).margins(weights)
    return float((correct(test, own) - correct(test, pooled)).mean())


def judge(world: World, splits: int, seed: int) -> dict[str, Any]:
    """Train on one world and say what its report would, from some splits."""
    torch.set_num_threads(1)
    population, pairs = populate(world, seed)
    parts = split(pairs, seed=seed, rotation=(0, splits))
    sweep = run_sweep(parts, [1, "auto"], families=("gaussian",), config=FitConfig(seed=seed))
    others = [split(pairs, seed=seed, rotation=(number, splits)) for number in range(1, splits)]
    more = [held_out_of_split(other, [1, "auto"], ("gaussian",), FitConfig(seed=seed)) for other in others]
    finding = finding_of(sweep, more)
    truth = true_gain(population, world, sweep, parts.unseen_shots) if world.taste > 0 else 0.0
    # At 95 % each: the finding's own intervals share their error with those of seen users.
    measured = gain(sweep.per_user, sweep.baseline)
    covered = None
    if measured.users >= MIN_USERS:
        intervals = Interval(measured.low, measured.high), measured.these_prompts
        covered = [bool(one.low <= truth <= one.high) for one in intervals]
    return {
        "has_tastes": finding.has_tastes,
        "verdicts": {group.setting: group.verdict for group in finding.groups},
        "controls": {control.name: control.verdict for control in controls(sweep)},
        "gain": measured.mean,
        "truth": truth,
        "covered": covered,
    }


def shares(world: World, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Count what the reports of a kind of world say."""
    said = {setting: Counter(one["verdicts"].get(setting) for one in found) for setting in ("unseen_test", "seen_test")}
    covered = [one["covered"] for one in found if one["has_tastes"] and one["covered"]]
    failed = Counter(name for one in found for name, verdict in one["controls"].items() if verdict == "does not hold")
    helps = [any(verdict == "helps" for verdict in one["verdicts"].values()) and one["has_tastes"] for one in found]
    hurts = [any(verdict == "hurts" for verdict in one["verdicts"].values()) and one["has_tastes"] for one in found]
    return {
        **asdict(world),
        "worlds": len(found),
        "tastes_found": float(np.mean([one["has_tastes"] for one in found])),
        "says_helps": float(np.mean(helps)),
        "says_hurts": float(np.mean(hurts)),
        "verdicts": {setting: dict(counts) for setting, counts in said.items()},
        "true_gain": float(np.mean([one["truth"] for one in found])),
        "intervals": len(covered),
        "covered": np.mean(covered, axis=0).round(3).tolist() if covered else None,  # new prompts, these prompts
        "controls_failed": dict(failed),
    }


NULL = [
    World(10, 40, 60, 0.0),
    World(40, 20, 60, 0.0),
    World(40, 20, 0, 0.0),
    World(100, 12, 40, 0.0),
    World(200, 8, 200, 0.0),
]
PLANTED = [
    World(40, 20, 60, 1.0),
    World(40, 40, 100, 1.0),
    World(100, 20, 100, 1.0),
    World(100, 20, 12, 1.0),
    World(100, 20, 0, 1.0),
    World(200, 20, 200, 0.5),
]
FLUKE = [World(212, 8, 600, 0.0, 1.0)]  # many users of few choices


# Each kind of world, the share of all worlds that are of that kind, and the splits that its finding is the mean of.
KINDS = {
    "null": (NULL, 2.0, 1),
    "planted": (PLANTED, 1.0, 1),
    "planted-5-splits": (PLANTED[2:3], 0.2, 5),
    "fluke": (FLUKE, 0.25, 1),
}


def main(worlds: int, kinds: Sequence[str], map_worlds: Callable[..., Any]) -> None:
    for kind in kinds:
        of_kind, share, splits = KINDS[kind]
        for world in of_kind:
            count = max(int(share * worlds) // len(of_kind), 1)
            judged = list(map_worlds(partial(judge, world, splits), range(count)))
            print(json.dumps({"kind": kind, **shares(world, judged)}), flush=True)


if __name__ == "__main__":
    with ProcessPoolExecutor() as pool:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100, sys.argv[2:] or list(KINDS), pool.map)

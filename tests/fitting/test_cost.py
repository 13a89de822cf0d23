from dataclasses import replace

import pytest
import torch

from builders import random_pairs
from lore.fitting.config import FitConfig
from lore.fitting.cost import Cost, evaluation, predicted
from lore.fitting.fit import fit_bases
from lore.solvers.objective import Likelihood

GIVEN = FitConfig(rank=4, strength=1e-3, weight_strength=0.0)


def test_a_hundred_times_the_pairs_cost_a_hundred_times_as_much_where_pairs_are_many() -> None:
    few = random_pairs(users=20, pairs=50_000, rows=100)
    many = few.select(torch.arange(50_000).repeat(100))
    assert evaluation(many, 4) / evaluation(few, 4) == pytest.approx(100, rel=0.2)
    assert predicted(many, [GIVEN]).bytes / predicted(few, [GIVEN]).bytes == pytest.approx(100, rel=0.2)


def test_more_to_do_is_predicted_to_cost_more() -> None:
    pairs = random_pairs(pairs=30_000)
    costs = [
        predicted(pairs, configs).reads
        for configs in ([replace(GIVEN, rank=1)], [GIVEN], [replace(GIVEN, rank=9)], [FitConfig(rank=9)])
    ]
    assert costs == sorted(costs)
    assert predicted(pairs, [GIVEN, GIVEN]).reads == pytest.approx(2 * costs[1])
    assert predicted(pairs, [replace(GIVEN, rank=0)]).reads == 0


@pytest.mark.parametrize("config", [GIVEN, replace(GIVEN, rank=1), FitConfig(rank=1), FitConfig(rank=3)])
def test_the_reads_of_a_fit_are_predicted_within_a_factor_of_three(
    monkeypatch: pytest.MonkeyPatch, config: FitConfig
) -> None:
    pairs, read, project = random_pairs(pairs=30_000, rows=500), [0.0], Likelihood.project

    def counted(table: Likelihood, basis: torch.Tensor) -> torch.Tensor:
        share = len(table.chosen) / len(pairs)
        read[0] += share * evaluation(pairs, basis.shape[1])
        return project(table, basis)

    monkeypatch.setattr(Likelihood, "project", counted)
    fit_bases(pairs, [config])
    expected = predicted(pairs, [config])
    assert 1 / 3 < read[0] / (expected.reads * expected.numbers) < 3


def test_a_cost_says_what_it_is_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lore.fitting.cost._timed", lambda table, _: 1e-9 * table.numel())
    said = [str(Cost(reads, 10**6, size)) for reads, size in ((20, 10**6), (2e3, 10**8), (2e5, 10**9), (2e7, 10**10))]
    assert said == [
        "about 1 s, 1 MiB, as long as 20 reads of the embeddings",
        "about 2 s, 95 MiB, as long as 2,000 reads of the embeddings",
        "about 3 min, 954 MiB, as long as 200,000 reads of the embeddings",
        "about 5.6 h, 9.3 GiB, as long as 20,000,000 reads of the embeddings",
    ]
    assert str(Cost(1e6, 300, 10**6)) == "about 1 s, 1 MiB"  # of a small table reads say nothing


def test_fits_say_what_they_will_cost_before_they_begin() -> None:
    said = []
    fit_bases(random_pairs(), [GIVEN], progress=lambda *step: said.append(step))
    assert said[0][:3] == ("fitting", 0, 1)
    assert said[0][3].startswith("about ")
    assert said[1:] == [("fitting", 1, 1)]

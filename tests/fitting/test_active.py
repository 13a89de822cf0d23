import pytest
import torch
from typer.main import get_command

from builders import random_pairs
from lore.cli import app
from lore.errors import ConfigError, ShapeError
from lore.fitting.active import MIN_GAIN, information, next_comparison, next_comparisons
from lore.fitting.basis import RewardBasis
from lore.fitting.fit import FitConfig, fit_basis
from lore.fitting.personalize import UserWeights, fit_weights
from lore.pairs.table import Pairs


def somebody(family: str, answered: int, rank: int = 2) -> tuple[UserWeights, RewardBasis, Pairs]:
    pairs = random_pairs(users=20, pairs=800)
    config = FitConfig(family=family, rank=rank, strength=1e-2, weight_strength=0.01)  # type: ignore[arg-type]
    basis = fit_basis(pairs, config).basis
    return fit_weights(pairs.for_users(torch.tensor([0])).select(torch.arange(answered)), basis), basis, pairs


def test_information_is_that_of_many_draws() -> None:
    mean, variance = torch.tensor([0.0, 0.5, -2.0, 0.0]).double(), torch.tensor([1.0, 4.0, 0.3, 0.0]).double()
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chance = torch.sigmoid(mean + noise * variance.sqrt())

    def entropy(p: torch.Tensor) -> torch.Tensor:
        return -torch.xlogy(p, p) - torch.special.xlog1py(1 - p, -p)

    torch.testing.assert_close(
        information(mean, variance), entropy(chance.mean(0)) - entropy(chance).mean(0), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("family", ["simplex", "gaussian"])
@pytest.mark.parametrize("answered", [0, 5])
def test_the_only_pair_that_differs_is_asked_and_sides_do_not_matter(family: str, answered: int) -> None:
    people, basis, pairs = somebody(family, answered)
    question = next_comparison(people, basis, pairs.vectors, torch.tensor([[0, 0], [3, 4], [1, 1]]))
    assert (question.first, question.second) == (3, 4)
    assert question.information > 0
    turned = next_comparison(people, basis, pairs.vectors, torch.tensor([[0, 0], [4, 3], [1, 1]]))
    assert turned.information == pytest.approx(question.information, abs=2e-6)
    assert turned.gain == pytest.approx(question.gain, abs=1e-5)


@pytest.mark.parametrize("family", ["simplex", "gaussian"])
def test_an_answer_lowers_what_the_same_question_would_tell(family: str) -> None:
    people, basis, pairs = somebody(family, 0)
    candidates = torch.combinations(torch.arange(20))
    before = next_comparison(people, basis, pairs.vectors, candidates)
    rows = torch.tensor([before.first]), torch.tensor([before.second])
    answered = Pairs.from_rows(pairs.vectors, *rows, torch.tensor([0]))
    again = next_comparison(fit_weights(answered, basis), basis, pairs.vectors, torch.stack(rows, dim=1))
    assert again.information < before.information


def stranger(seed: int = 0) -> tuple[UserWeights, RewardBasis, torch.Tensor]:
    """Somebody who has said nothing yet, with tastes that matter, and sixty responses."""
    rng = torch.Generator().manual_seed(seed)
    basis = RewardBasis(2 * torch.randn(6, 4, generator=rng), torch.zeros(6), torch.zeros(4), "gaussian", 4)
    vectors = torch.randn(60, 6, generator=rng)
    nothing = torch.zeros(0, dtype=torch.long)
    return fit_weights(Pairs.from_rows(vectors, nothing, nothing, nothing, users=["new"]), basis), basis, vectors


def test_a_batch_asks_about_different_things() -> None:
    people, basis, pool = stranger()
    pool[30:] = pool[:30] + 1e-6  # every response has a twin
    candidates = torch.combinations(torch.arange(60))
    questions = next_comparisons(people, basis, pool, candidates, count=3)
    asked = {frozenset({question.first % 30, question.second % 30}) for question in questions}
    assert len(asked) == 3
    assert questions[0] == next_comparison(people, basis, pool, candidates)
    assert len(next_comparisons(people, basis, pool, torch.tensor([[0, 1]]), count=3)) == 1


def test_a_shortlist_finds_nearly_the_best_pair_of_a_table() -> None:
    for seed in range(5):
        rng = torch.Generator().manual_seed(seed)
        table = torch.randn(300, 12, generator=rng)
        vectors = torch.randn(12, 12, generator=rng) * torch.linspace(1.5, 0.2, 12)
        basis = RewardBasis(vectors, torch.randn(12, generator=rng), torch.zeros(12), "gaussian", 4)
        chosen, rejected = torch.randint(300, (2, 10), generator=rng)
        people = fit_weights(Pairs.from_rows(table, chosen, rejected, torch.zeros(10, dtype=torch.long)), basis)
        listed = next_comparison(people, basis, table)
        exhaustive = next_comparison(people, basis, table, torch.combinations(torch.arange(300)))
        assert listed.information >= 0.99 * exhaustive.information


def test_it_says_stop_when_asking_more_is_not_worth_it() -> None:
    people, basis, pool = stranger()
    candidates = torch.combinations(torch.arange(60))
    assert not next_comparison(people, basis, pool, candidates).stop
    assert next_comparison(people, basis, pool, candidates, min_gain=0.5).stop
    option = next(option for option in get_command(app).commands["ask"].params if option.name == "min_gain")
    assert option.default == MIN_GAIN  # which the command cannot import without torch
    assert next_comparison(people, basis, pool, torch.tensor([[1, 1]])).stop  # nothing to learn


def test_the_expected_gain_is_what_answers_bring() -> None:
    people, basis, pool = stranger()
    candidates = torch.combinations(torch.arange(60))
    question = next_comparison(people, basis, pool, candidates)
    rng = torch.Generator().manual_seed(1)
    tastes = torch.randn(3_000, 4, generator=rng) @ basis.vectors.T
    rows = torch.tensor([question.first, question.second])
    likes_first = torch.rand(3_000, generator=rng) < torch.sigmoid((pool[rows[0]] - pool[rows[1]]) @ tastes.T)
    difference = pool[candidates[:, 0]] - pool[candidates[:, 1]]
    truth = torch.sigmoid(difference @ tastes.T)  # P(first preferred) of every pair, by each person
    # The best that can be predicted after the answer: the likelier side, among the people who gave it.
    known = [truth[:, likes_first == answer].mean(dim=1) for answer in (True, False)]
    after = sum(share * torch.maximum(p, 1 - p).mean() for share, p in zip((0.5, 0.5), known, strict=True))
    assert question.gain == pytest.approx(float(after) - 0.5, abs=0.04)


def test_questions_about_differences_need_no_rows() -> None:
    pairs = random_pairs()
    listed = Pairs.from_differences([pairs.differences()[pairs.user == 0]])
    vectors = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).double()
    basis = RewardBasis(vectors, torch.zeros(6).double(), torch.full((2,), 0.5).double(), "simplex", 2)
    assert next_comparison(fit_weights(listed, basis), basis, pairs.vectors, torch.tensor([[0, 1]])).information >= 0


def test_bad_candidates_are_refused() -> None:
    people, basis, pairs = somebody("gaussian", 2)
    with pytest.raises(ShapeError, match="candidates"):
        next_comparison(people, basis, pairs.vectors, torch.zeros(0, 2, dtype=torch.long))
    with pytest.raises(ShapeError, match="candidates"):
        next_comparison(people, basis, pairs.vectors[:1])
    with pytest.raises(ConfigError, match="count"):
        next_comparisons(people, basis, pairs.vectors, count=0)


def test_what_are_no_rows_or_no_numbers_is_refused_and_nothing_is_asked_twice() -> None:
    basis = RewardBasis(torch.eye(3), torch.zeros(3), torch.zeros(3), "gaussian", 3)
    people = fit_weights(Pairs.from_rows(torch.eye(3), *torch.tensor([[0], [1], [0]])), basis)
    for candidates in (torch.tensor([[0, 3]]), torch.tensor([[0, -1]]), torch.tensor([[0.0, 1.0]])):
        with pytest.raises(ShapeError, match="rows of `embeddings`"):
            next_comparison(people, basis, torch.eye(3), candidates)
    for user in (-1, 1):
        with pytest.raises(ShapeError, match="`user`"):
            next_comparison(people, basis, torch.eye(3), user=user)
    with pytest.raises(ShapeError, match="two responses"):
        next_comparison(people, basis, torch.eye(3)[:1])
    with pytest.raises(ShapeError, match="finite"):
        next_comparison(people, basis, torch.full((3, 3), torch.nan))
    again = torch.tensor([[0, 1], [1, 0], [0, 1], [1, 2]])
    asked = [{found.first, found.second} for found in next_comparisons(people, basis, torch.eye(3), again, count=4)]
    assert sorted(map(sorted, asked)) == [[0, 1], [1, 2]]

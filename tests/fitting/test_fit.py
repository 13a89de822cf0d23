import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import oracle
from builders import random_pairs
from fitting_builders import FIXED
from lore.errors import ConfigError, ConvergenceWarning, DataError, ShapeError
from lore.evaluation.metrics import accuracy
from lore.fitting.fit import FitConfig, fit_bases, fit_basis, iterate_fits
from lore.fitting.likelihood import likelihood, spectrum_of
from lore.fitting.personalize import fit_weights
from lore.fitting.simplex_descent import SimplexDescent, descend
from lore.fitting.simplex_problem import Evaluation, Regularization, Request, SimplexProblem, evaluate_many
from lore.pairs.table import Pairs
from lore.solvers.objective import Likelihood


def evaluated(problem: SimplexProblem, basis: torch.Tensor) -> Evaluation:
    return evaluate_many([Request(problem, basis, problem.first_state)])[0]


def test_gradient_of_the_basis_with_the_weights_solved_equals_finite_differences(planted: Pairs) -> None:
    regularization = Regularization(torch.zeros(6).double(), 1e-3, "distance", 0.02)
    problem = SimplexProblem.of(planted, 3, "users", 1.0, regularization)
    basis = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient = evaluated(problem, basis).gradient
    direction = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    above, below = (float(evaluated(problem, basis + sign * 1e-4 * direction).value) for sign in (1, -1))
    assert (above - below) / 2e-4 == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


@pytest.mark.parametrize("average", ["users", "pairs"])
def test_objective_is_the_formula_at_the_weights_that_are_returned(planted: Pairs, average: str) -> None:
    fit = fit_basis(planted, replace(FIXED, average=average))
    loss = oracle.loss(planted, fit.basis.vectors, fit.weights, average)
    assert fit.loss == pytest.approx(float(loss), rel=1e-6)
    drawn = oracle.penalty(fit.basis.vectors, torch.zeros(6).double(), 1e-3, "distance")
    spread = oracle.divergence(fit.basis.population.double(), fit.weights.double()).mean()
    assert fit.objective == pytest.approx(float(loss + drawn + 0.01 * spread), rel=1e-5)
    assert fit.gap is None  # the problem is not convex, so that nothing is certified
    assert fit.optimality <= FIXED.tolerance
    assert fit.converged


@pytest.mark.parametrize("average", ["users", "pairs"])
def test_weights_cannot_be_bettered_by_moving_one_user(planted: Pairs, average: str) -> None:
    # The users' own problems carry the share that each has in the loss, whichever way it is averaged.
    regularization = Regularization(torch.zeros(6).double(), 0.0, "distance", 0.02)
    problem = SimplexProblem.of(planted, 3, average, 1.0, regularization)
    basis = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    best = evaluated(problem, basis)
    for user in range(3):
        moved = best.weights.clone()
        moved[user] = 0.9 * moved[user] + 0.1 / 3
        spread = oracle.divergence(problem.first_state.population, moved).mean()
        assert float(oracle.loss(planted, basis, moved, average) + 0.02 * spread) >= float(best.value) - 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_no_joint_adam_run_gets_lower(seed: int) -> None:
    pairs = random_pairs(seed=seed)
    fit = fit_basis(pairs, FitConfig(rank=3, strength=1e-3, weight_strength=0.0, tolerance=1e-4))
    zero = torch.zeros(6).double()
    adam = min(oracle.adam(pairs, 3, 1e-3, zero, 600, 0.1, seed=start).objective for start in range(3))
    assert fit.objective <= 1.005 * adam


def test_rank_one_is_pooled_bradley_terry_for_everybody(planted: Pairs) -> None:
    fit = fit_basis(planted, FitConfig(rank=1, strength=1e-2))
    assert torch.equal(fit.weights, torch.ones(12, 1).double())
    v = fit.basis.vectors.clone().requires_grad_()
    objective = oracle.loss(planted, v, torch.ones(12, 1).double()) + 1e-2 * v.square().sum()
    assert torch.autograd.grad(objective, v)[0].abs().max() < 2e-3


def test_rank_zero_is_the_reference_itself(planted: Pairs) -> None:
    reference = torch.arange(6).double()
    fit = fit_basis(planted, FitConfig(rank=0), reference=reference[:, None])
    torch.testing.assert_close(fit.basis.vectors[:, 0], reference)
    assert fit.basis.rank == 0
    assert fit.loss == pytest.approx(float(oracle.loss(planted, reference[:, None], torch.ones(12, 1).double())))


def test_a_strong_penalty_draws_every_column_to_the_reference(planted: Pairs) -> None:
    reference = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near = fit_basis(planted, replace(FIXED, strength=1e4), reference=reference).basis.vectors
    torch.testing.assert_close(near, reference[:, None].expand(-1, 3), atol=1e-3, rtol=0)


@pytest.mark.filterwarnings("ignore::lore.errors.ConvergenceWarning")
def test_a_cosine_penalty_turns_every_column_toward_the_reference(planted: Pairs) -> None:
    reference = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    config = replace(FIXED, penalty="cosine", max_iterations=10)
    free, turned = (
        fit_basis(planted, replace(config, strength=strength), reference=reference).basis.vectors
        for strength in (1e-3, 0.3)
    )
    cosines = [
        torch.nn.functional.cosine_similarity(found, reference[:, None], dim=0).mean() for found in (free, turned)
    ]
    assert cosines[1] > cosines[0]


def test_permuting_users_and_pairs_changes_nothing(planted: Pairs) -> None:
    order = torch.randperm(len(planted), generator=torch.Generator().manual_seed(0))
    people = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    shuffled = planted.select(order).for_users(people)
    fit, other = (fit_basis(pairs, replace(FIXED, tolerance=1e-5)) for pairs in (planted, shuffled))
    assert fit.objective == pytest.approx(other.objective, rel=1e-3)


def test_scaling_embeddings_and_temperature_together_changes_nothing(planted: Pairs) -> None:
    fit = fit_basis(planted, replace(FIXED, tolerance=1e-5))
    scaled = fit_basis(replace(planted, vectors=planted.vectors * 10), replace(FIXED, temperature=10.0, tolerance=1e-5))
    assert scaled.objective == pytest.approx(fit.objective, rel=1e-4)


def test_doubling_all_pair_weights_changes_nothing(planted: Pairs) -> None:
    doubled = replace(planted, weight=2 * planted.weight)
    assert fit_basis(doubled, FIXED).objective == pytest.approx(fit_basis(planted, FIXED).objective)


def test_the_same_seed_gives_the_same_bits(planted: Pairs) -> None:
    first, again = fit_basis(planted, FIXED), fit_basis(planted, FIXED)
    assert torch.equal(first.basis.vectors, again.basis.vectors)
    assert torch.equal(first.weights, again.weights)


def test_float32_agrees_with_float64(planted: Pairs) -> None:
    single = replace(
        planted, vectors=planted.vectors.float(), weight=planted.weight.float(), label=planted.label.float()
    )
    fit = fit_basis(single, FIXED)
    assert fit.basis.vectors.dtype == torch.float32
    assert fit.objective == pytest.approx(fit_basis(planted, FIXED).objective, rel=1e-3)


def test_weights_of_seen_users_are_what_fit_weights_gives(planted: Pairs) -> None:
    fit = fit_basis(planted, FIXED)
    torch.testing.assert_close(fit_weights(planted, fit.basis).weights, fit.weights, atol=1e-3, rtol=0)


def test_automatic_strengths_are_validated_and_no_worse_than_pooled(planted: Pairs) -> None:
    pooled, personal = fit_bases(planted, [FitConfig(rank=1), FitConfig(rank=2)])
    assert pooled.validation is not None
    assert personal.validation is not None
    assert personal.validation <= pooled.validation
    assert pooled.strength > 0


def test_without_personal_tastes_the_automatic_fit_ends_at_pooled() -> None:
    pairs = random_pairs(users=10, pairs=300, seed=4)
    coin = torch.rand(300, generator=torch.Generator().manual_seed(0)) < 0.5
    chosen, rejected = (
        torch.where(coin, a, b) for a, b in ((pairs.chosen, pairs.rejected), (pairs.rejected, pairs.chosen))
    )
    noise = replace(pairs, chosen=chosen, rejected=rejected)
    pooled, personal = fit_bases(noise, [FitConfig(rank=1), FitConfig(rank=3)])
    spread = (personal.basis.vectors - pooled.basis.vectors).norm() / max(float(pooled.basis.vectors.norm()), 1e-3)
    assert float(spread) < 0.2


@pytest.mark.filterwarnings("ignore::lore.errors.ConvergenceWarning")
def test_automatic_strength_toward_a_reference_and_with_a_cosine(planted: Pairs) -> None:
    reference = torch.ones(6).double()
    for config in (
        FitConfig(rank=2),
        FitConfig(rank=2, penalty="cosine", max_iterations=10),
        FitConfig(rank=1, penalty="cosine", max_iterations=10),
    ):
        fit = fit_basis(planted, config, reference=reference)
        assert fit.validation is not None
        assert fit.basis.vectors.isfinite().all()


def test_a_given_strength_is_kept_while_the_other_is_chosen(planted: Pairs) -> None:
    fit = fit_basis(planted, FitConfig(rank=2, strength=0.01))
    assert fit.strength == 0.01
    assert fit.weight_strength in (0.03, 0.01, 0.003, 0.001)


def test_a_fit_that_did_not_converge_says_so(planted: Pairs) -> None:
    with pytest.warns(ConvergenceWarning, match="max_iterations"):
        fit = fit_basis(planted, replace(FIXED, max_iterations=1, tolerance=1e-9))
    assert not fit.converged


def test_fits_are_handed_over_as_soon_as_they_are_done(planted: Pairs) -> None:
    steps: list[tuple[int, int]] = []
    fits = iterate_fits(
        planted,
        [FIXED, FitConfig(rank=1)],
        progress=lambda _, done, total, note="": steps.append((done, total)),  # noqa: ARG005 - of the protocol
    )
    assert next(fits)[1].basis.rank == 3
    assert steps == [(0, 2)]
    assert [(number, fit.basis.rank) for number, fit in fits] == [(1, 1)]
    assert steps == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"family": "cubic"}, "family"),
        ({"rank": -1}, "rank"),
        ({"rank": 2.5}, "whole number"),
        ({"rank": "foo"}, "whole number"),
        ({"rank": True}, "whole number"),
        ({"tempering": "strong"}, "tempering"),
        ({"strength": -1.0}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"weight_strength": "some"}, "weight_strength"),
        ({"penalty": "huber"}, "penalty"),
        ({"average": "median"}, "average"),
        ({"temperature": 0.0}, "temperature"),
        ({"tolerance": float("inf")}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
    ],
)
def test_bad_configurations_are_refused_by_name(change, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FitConfig(**change)


def test_few_pairs_are_fitted_on_one_thread_and_the_callers_threads_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs, project, seen = random_pairs(), Likelihood.project, set[tuple[int, int]]()

    def watched(table: Likelihood, basis: torch.Tensor) -> torch.Tensor:
        seen.add((len(table.chosen), torch.get_num_threads()))
        return project(table, basis)

    monkeypatch.setattr(Likelihood, "project", watched)
    torch.set_num_threads(2)
    for count in (240, 24_000):
        many = pairs.select(torch.arange(count) % len(pairs))
        fit_basis(many, FitConfig(rank=1, strength=1e-2))
        assert torch.get_num_threads() == 2
    assert seen == {(240, 1), (24_000, 2)}


def test_problems_that_cannot_be_fitted_are_refused(planted: Pairs) -> None:
    with pytest.raises(ConfigError, match="at most the embeddings' 6"):
        fit_basis(planted, FitConfig(rank=7))
    with pytest.raises(ConfigError, match="reference"):
        fit_basis(planted, FitConfig(rank=0))
    with pytest.raises(ConfigError, match="cosine"):
        fit_basis(planted, FitConfig(penalty="cosine"))
    with pytest.raises(ShapeError, match="reference"):
        fit_basis(planted, FIXED, reference=torch.ones(5))
    with pytest.raises(DataError, match="no pairs"):
        fit_basis(planted.select(torch.zeros(0, dtype=torch.long)), FIXED)
    single = replace(planted, group=torch.zeros(len(planted.group), dtype=torch.long))
    with pytest.raises(ConfigError, match="needs two, got 1"):
        fit_basis(single, FitConfig(rank=1))
    two = Pairs.from_rows(torch.eye(2), torch.tensor([0]), torch.tensor([1]), torch.tensor([0]))
    with pytest.raises(ConfigError, match="held-out groups"):
        fit_basis(two, FitConfig(rank=1))
    with pytest.raises(ConfigError, match="features"):
        fit_basis(
            Pairs.from_rows(torch.eye(6)[:3], torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([0, 0])),
            FitConfig(family="gaussian", rank=5, strength=0.1),
        )


def test_likelihood_of_equal_margins_is_log_two(planted: Pairs) -> None:
    table = likelihood(planted, "users", 1.0)
    assert float(table.loss(torch.zeros(len(planted)))) == pytest.approx(0.6931471805599453)


def test_a_fit_raises_no_warning_of_its_own(planted: Pairs) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_basis(planted, FIXED)


def test_fits_that_share_their_passes_are_those_of_each_alone(planted: Pairs) -> None:
    configs = [
        FitConfig(rank=rank, strength=strength, weight_strength=shrinkage)
        for rank, strength, shrinkage in ((1, 1e-3, 0.0), (2, 1e-3, 0.01), (3, 1e-2, 0.0), (3, 1e-3, 0.01))
    ]
    for shared, config in zip(fit_bases(planted, configs), configs, strict=True):
        alone = fit_basis(planted, config)
        assert shared.objective == pytest.approx(alone.objective, rel=1e-6)
        torch.testing.assert_close(shared.basis.vectors, alone.basis.vectors, rtol=1e-3, atol=1e-5)


def test_a_strong_penalty_on_angles_leaves_lengths_free_and_no_adam_run_gets_lower(planted: Pairs) -> None:
    reference = planted.vectors[planted.chosen].mean(0) - planted.vectors[planted.rejected].mean(0)
    config = FitConfig(rank=4, strength=1e4, weight_strength=0.0, penalty="cosine", average="pairs")
    fit = fit_basis(planted, config, reference)
    assert fit.converged
    cosines = torch.nn.functional.cosine_similarity(fit.basis.vectors, reference[:, None], dim=0)
    assert float(1 - cosines.min()) < 1e-3
    assert fit.objective <= oracle.alternating_adam(planted, 4, 1e4, reference, steps=400, rate=0.05, seed=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_embeddings_of_half_precision_are_computed_with_in_float32(planted: Pairs, dtype: torch.dtype) -> None:
    half = replace(
        planted, vectors=planted.vectors.to(dtype), weight=planted.weight.float(), label=planted.label.float()
    )
    wide = replace(half, vectors=half.vectors.float())
    narrow, expected = fit_basis(half, FIXED), fit_basis(wide, FIXED)
    assert narrow.basis.vectors.dtype == torch.float32
    assert narrow.objective == pytest.approx(expected.objective, rel=1e-5)
    people = fit_weights(half, narrow.basis)
    torch.testing.assert_close(people.weights, fit_weights(wide, narrow.basis).weights, atol=1e-4, rtol=0)
    assert accuracy(half, narrow.basis, people).mean == pytest.approx(accuracy(wide, narrow.basis, people).mean)


def test_a_table_mapped_from_a_file_is_read_where_it_lies(tmp_path: Path) -> None:
    pairs = random_pairs(rows=3_000, pairs=4_000)
    torch.from_numpy(pairs.vectors.float().numpy()).numpy().tofile(tmp_path / "vectors")
    mapped = torch.from_file(str(tmp_path / "vectors"), size=pairs.vectors.numel(), dtype=torch.float32).view(-1, 6)
    like = {"weight": pairs.weight.float(), "label": pairs.label.float()}
    found = fit_basis(replace(pairs, vectors=mapped, **like), FIXED)
    assert found.objective == pytest.approx(fit_basis(replace(pairs, **like, vectors=mapped.clone()), FIXED).objective)


@pytest.mark.parametrize("seed", range(20))
def test_no_long_descent_from_a_random_start_gets_lower(seed: int) -> None:
    pairs = random_pairs(seed=seed, pairs=240)
    config = FitConfig(rank=3, strength=1e-2, weight_strength=0.0, tolerance=1e-4)
    penalties = Regularization(torch.zeros(6).double(), 1e-2, "distance", 0.0)

    def descent(number: int) -> SimplexDescent:
        problem = SimplexProblem.of(pairs, 3, "users", 1.0, penalties)
        rng = torch.Generator().manual_seed(100 + number)
        start = torch.randn(6, 3, generator=rng, dtype=torch.float64)
        return SimplexDescent(problem, [start], spectrum_of(pairs, 0), 1e-5, 2_000)

    descents = list(map(descent, range(10)))
    descend(descents)
    lowest = min(descent.result.value for descent in descents)
    assert fit_basis(pairs, config).objective <= 1.001 * lowest


def test_pairs_of_rows_and_pairs_of_differences_are_fitted_alike(planted: Pairs) -> None:
    own = [planted.for_users(torch.tensor([user])).differences() for user in range(len(planted.users))]
    rows, differences = fit_basis(planted, FIXED), fit_basis(Pairs.from_differences(own), FIXED)
    assert differences.objective == pytest.approx(rows.objective, rel=1e-6)
    torch.testing.assert_close(differences.weights, rows.weights, atol=1e-3, rtol=0)


def test_fits_in_two_threads_are_those_of_one(planted: Pairs) -> None:
    configs = [FIXED, replace(FIXED, rank=2)]
    with ThreadPoolExecutor(2) as threads:
        beside = list(threads.map(lambda config: fit_basis(planted, config), configs))
    for found, config in zip(beside, configs, strict=True):
        assert torch.equal(found.basis.vectors, fit_basis(planted, config).basis.vectors)


def test_a_certified_end_reports_its_relative_gradient_beside_the_gap(planted: Pairs) -> None:
    fit = fit_basis(planted, FitConfig(rank=1, strength=0.1))
    assert fit.gap is not None
    assert fit.optimality_kind == "relative gradient"
    assert fit.optimality > fit.gap

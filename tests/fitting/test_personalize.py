import pytest
import torch

from builders import random_pairs
from lore.errors import ConfigError, ShapeError
from lore.fitting.fit import FitConfig, fit_basis
from lore.fitting.personalize import fit_weights
from lore.pairs.table import Pairs

SIMPLEX = FitConfig(rank=3, strength=1e-3, weight_strength=0.02)


@pytest.mark.parametrize("family", ["simplex", "gaussian"])
def test_each_person_is_a_problem_of_its_own(planted: Pairs, family: str) -> None:
    basis = fit_basis(planted, FitConfig(family=family, rank=2, strength=1e-2, weight_strength=0.02)).basis
    together = fit_weights(planted, basis).weights
    for user in (0, 5, 11):
        alone = fit_weights(planted.for_users(torch.tensor([user])), basis)
        torch.testing.assert_close(alone.weights[0], together[user], atol=1e-4, rtol=0)


def test_gaps_are_small_and_unknown_people_get_the_population(planted: Pairs) -> None:
    basis = fit_basis(planted, SIMPLEX).basis
    people = fit_weights(planted.select(planted.user != 3), basis)
    assert float(people.gap.max()) <= 1e-7
    torch.testing.assert_close(people.weights[3], basis.population.to(people.weights))


def test_pairs_of_another_encoder_are_refused(planted: Pairs) -> None:
    basis = fit_basis(planted, SIMPLEX).basis
    with pytest.raises(ShapeError, match="one encoder"):
        fit_weights(random_pairs(dim=4), basis)


def test_the_simplex_family_has_no_variances(planted: Pairs) -> None:
    basis = fit_basis(planted, FitConfig(rank=2, strength=1e-3, weight_strength=0.0)).basis
    weights = fit_weights(planted, basis)
    for ask in (
        lambda: weights.covariance(torch.tensor([0])),
        lambda: weights.variances(torch.ones(1, 2), torch.tensor([0])),
    ):
        with pytest.raises(ConfigError, match='family="gaussian"'):
            ask()


def test_a_covariance_is_positive_and_below_the_prior(planted: Pairs) -> None:
    gaussian = fit_basis(planted, FitConfig(family="gaussian", rank=2, strength=1e-2)).basis
    covariance = fit_weights(planted, gaussian).covariance(torch.tensor([4, 1]))
    assert covariance.shape == (2, gaussian.columns, gaussian.columns)
    eigenvalues = torch.linalg.eigvalsh(covariance)
    assert float(eigenvalues.min()) > 0
    assert float(eigenvalues.max()) <= 1 + 1e-9

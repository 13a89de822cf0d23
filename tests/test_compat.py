"""The documented names, against numbers that the original gave (tests/golden)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lore import compat

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / f"{request.param}.npz"))


def ragged(values: dict[str, np.ndarray], name: str = "X") -> list[torch.Tensor]:
    rows = torch.from_numpy(values[f"{name}_cat"])
    return list(rows.split(values[f"{name}_len"].tolist()))


@pytest.mark.parametrize("golden", ["generate_population"], indirect=True)
def test_populations_are_the_same_draws(golden) -> None:
    for case in range(int(golden["n_cases"])):
        np.random.seed(int(golden[f"case{case}_seed"]))
        found = compat.generate_popupulation(golden[f"case{case}_alpha"], int(golden[f"case{case}_N"]))
        np.testing.assert_array_equal(found, golden[f"case{case}_W"])


@pytest.mark.parametrize("golden", ["simulate"], indirect=True)
def test_simulated_people_choose_the_same(golden) -> None:
    features = torch.from_numpy(golden["features"])
    found = compat.simulate_population(golden["reward_tensor"], features, golden["W"])
    np.testing.assert_array_equal(found.numpy(), golden["population_out"])
    tied = compat.simulate_population(golden["tie_reward_tensor"], features, golden["tie_W"])
    np.testing.assert_array_equal(tied.numpy(), golden["tie_population_out"])
    one = compat.simulate_user(golden["reward_tensor"][0], list(features[0]), golden["W"][0])
    np.testing.assert_array_equal(one.numpy(), golden["population_out"][0, :1])


@pytest.mark.parametrize("golden", ["create_sparse_tensor"], indirect=True)
def test_sparse_samples_are_the_same_rows(golden) -> None:
    for case in range(int(golden["n_cases"])):
        np.random.seed(int(golden[f"case{case}_seed"]))
        dense = torch.from_numpy(golden[f"case{case}_dense"])
        found = compat.create_sparse_tensor(dense, float(golden[f"case{case}_percentage"]))
        np.testing.assert_array_equal(torch.stack(found).numpy(), golden[f"case{case}_out"])


@pytest.mark.parametrize("golden", ["sample_shots"], indirect=True)
def test_shots_are_the_same_rows(golden) -> None:
    for case in range(int(golden["n_cases"])):
        torch.manual_seed(int(golden[f"case{case}_seed"]))
        found = compat.sample_shots(ragged(golden), int(golden[f"case{case}_shots"]))
        np.testing.assert_array_equal(torch.cat(found).numpy(), golden[f"case{case}_out_cat"])


@pytest.mark.parametrize("golden", ["evaluate"], indirect=True)
def test_accuracies_are_the_same(golden) -> None:
    basis = torch.from_numpy(golden["V"])
    found = [compat.evaluate_model(own, basis, w) for own, w in zip(ragged(golden), golden["W"], strict=True)]
    np.testing.assert_allclose(found, golden["accuracies"], atol=1e-6)


@pytest.mark.parametrize("golden", ["lore"], indirect=True)
@pytest.mark.parametrize(("tag", "shape"), [("a0", (-1,)), ("aP", (-1, 1))])
def test_joint_training_ends_where_the_original_did(golden, tag: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(int(golden["seed"]))
    alpha = float(golden["alpha"]) if tag == "aP" else 0.0
    sizes = [int(golden[name]) for name in ("N", "F", "K", "num_iterations")]
    reference = torch.from_numpy(golden["V_sft"]).reshape(shape)
    model = compat.LoRe(reference, alpha, *sizes, float(golden["learning_rate"]))
    nll, reg = model(ragged(golden))
    assert float(nll.detach()) == pytest.approx(float(golden[f"{tag}_nll_init"]), rel=1e-5)
    assert float(reg.detach()) == pytest.approx(float(golden[f"{tag}_reg_init"]), rel=1e-5)
    weights, basis = model.train(ragged(golden))
    np.testing.assert_allclose(weights.detach().numpy(), golden[f"{tag}_W_softmax_final"], atol=1e-3)
    np.testing.assert_allclose(basis.detach().numpy(), golden[f"{tag}_V_final"], atol=1e-3)
    assert basis.requires_grad
    assert not model.eval().training


@pytest.mark.parametrize("golden", ["personalize"], indirect=True)
def test_few_shot_weights_end_where_the_originals_did(golden) -> None:
    torch.manual_seed(int(golden["seed"]))
    sizes = [int(golden[name]) for name in ("N", "num_iterations")]
    basis = torch.from_numpy(golden["V"])
    model = compat.PersonalizeBatch(sizes[0], *basis.shape, sizes[1], float(golden["learning_rate"]))
    assert float(model(ragged(golden), basis).detach()) == pytest.approx(float(golden["nll_init"]), rel=1e-5)
    np.testing.assert_allclose(torch.stack(model.train(ragged(golden), basis)).numpy(), golden["W_final"], atol=1e-3)
    assert model.train(True).training
    torch.manual_seed(int(golden["few_seed"]))
    steps, rate = int(golden["few_num_iterations"]), float(golden["few_learning_rate"])
    few = compat.learn_multiple_few_shot(ragged(golden), basis, steps, rate)
    np.testing.assert_allclose(torch.stack(few).numpy(), golden["few_W_final"], atol=1e-3)

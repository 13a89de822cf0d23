"""The documented names, against numbers that the original gave (tests/golden)."""

import inspect
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lore import compat
from lore.errors import DataError, ShapeError

GOLDEN = Path(__file__).parents[0] / "golden"


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


@pytest.mark.parametrize("golden", ["lore"], indirect=True)
@pytest.mark.parametrize("tag", ["a0", "aP"])
def test_gradients_of_the_joint_loss_are_the_originals(golden, tag: str) -> None:
    torch.manual_seed(int(golden["seed"]))
    alpha = float(golden["alpha"]) if tag == "aP" else 0.0
    model = compat.LoRe(torch.from_numpy(golden["V_sft"]), alpha, *(int(golden[name]) for name in ("N", "F", "K")))
    sum(model(ragged(golden))).backward()
    for name in ("W", "V"):
        found = getattr(model, name).grad.numpy()
        np.testing.assert_allclose(found, golden[f"{tag}_grad_{name}_init"], atol=1e-5)


def regularized(golden, alpha: float, rank: int, steps: int, shape: tuple[int, ...] = (-1, 1)):
    sizes = [int(golden["N"]), int(golden["F"]), rank, steps]
    return compat.LoRe_regularized(torch.from_numpy(golden["V_sft"]).reshape(shape), alpha, *sizes, 0.5)


@pytest.mark.parametrize("golden", ["lore_regularized"], indirect=True)
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_the_regularized_loss_is_the_originals(golden, shape: tuple[int, ...]) -> None:
    torch.manual_seed(int(golden["seed"]))
    model = regularized(golden, 1.5, int(golden["K"]), 10, shape)
    np.testing.assert_array_equal(model.W.detach().numpy(), golden["W_init"])
    np.testing.assert_array_equal(model.V.detach().numpy(), golden["V_init"])
    rows, user = model._prepare_batch(ragged(golden))
    np.testing.assert_array_equal(rows.numpy(), golden["packed_X"])
    np.testing.assert_array_equal(user.numpy(), golden["packed_y"])
    torch.testing.assert_close(model.V_sft_norm.norm(), torch.tensor(1.0))
    for tag, alpha in (("a0", 0.0), ("aP", float(golden["packed_alpha"]))):
        model.zero_grad()
        nll, reg, entropy = model._forward_from_packed(rows, user, alpha)
        (nll + alpha * reg).backward()
        for name, value in (("nll", nll), ("reg", reg), ("entropy", entropy)):
            assert float(torch.as_tensor(value).detach()) == pytest.approx(
                float(golden[f"packed_{name}_{tag}"]), rel=1e-5
            )
        for name in ("W", "V"):
            found = getattr(model, name).grad.numpy()
            np.testing.assert_allclose(found, golden[f"packed_grad_{name}_{tag}"], atol=1e-5)


@pytest.mark.parametrize("golden", ["lore_regularized"], indirect=True)
def test_the_penalty_is_ramped_up_as_in_the_original(golden) -> None:
    for case in range(int(golden["n_alpha_cases"])):
        steps = int(golden[f"alpha_case{case}_num_iterations"])
        model = regularized(golden, float(golden[f"alpha_case{case}_alpha"]), 2, steps)
        values = golden[f"alpha_case{case}_values"]
        np.testing.assert_allclose([model._alpha_at_step(step) for step in range(len(values))], values)


@pytest.mark.parametrize("golden", ["lore_regularized"], indirect=True)
@pytest.mark.parametrize("tag", ["train", "train_a0", "prune"])
def test_alternating_training_ends_where_the_original_did_and_pruned_weights_sum_to_one(golden, tag: str) -> None:
    torch.manual_seed(int(golden[f"{tag}_seed"]))
    alpha, rank, steps = (golden[f"{tag}_{name}"].item() for name in ("alpha", "K", "num_iterations"))
    model = regularized(golden, alpha, rank, steps)
    assert model.learning_rate == float(golden[f"{tag}_learning_rate"])
    weights, basis = model.train(ragged(golden))
    mask, full = golden[f"{tag}_mask"], golden[f"{tag}_W_softmax_full"]
    kept = full[:, mask] / full[:, mask].sum(1, keepdims=True)
    np.testing.assert_allclose(weights.detach().numpy(), kept, atol=1e-3)
    np.testing.assert_allclose(basis.detach().numpy(), golden[f"{tag}_V_full"][:, mask], atol=1e-3)
    torch.testing.assert_close(weights.detach().sum(1), torch.ones(len(weights)))
    assert basis.requires_grad
    assert bool(mask.all()) == (tag != "prune")
    assert not model.eval().training


@pytest.mark.parametrize("golden", ["solve_regularized", "solve_regularized_simplex"], indirect=True)
def test_the_solvers_end_where_the_originals_did(golden, request: pytest.FixtureRequest) -> None:
    solve = getattr(compat, request.node.callspec.params["golden"])
    torch.manual_seed(int(golden["seed"]))
    reference, alpha, rank = torch.from_numpy(golden["V_sft"]), float(golden["alpha"]), int(golden["K"])
    steps, rate = int(golden["num_iterations"]), float(golden["learning_rate"])
    weights, basis = solve(reference, alpha, ragged(golden), rank, steps, rate)
    np.testing.assert_allclose(weights.detach().numpy(), golden["W"], atol=1e-3)
    np.testing.assert_allclose(basis.numpy(), golden["V"], atol=1e-3)
    short = [own[:, :7] for own in ragged(golden)]
    assert solve(reference[:7], alpha, short, rank, 5, rate)[1].shape == (7, 2)  # of any size


@pytest.mark.parametrize("golden", ["evaluate"], indirect=True)
def test_accuracies_of_several_users_are_the_same_and_logged(golden, caplog: pytest.LogCaptureFixture) -> None:
    basis, weights = list(torch.from_numpy(golden["V_per_user"])), list(golden["W"])
    with caplog.at_level("INFO"):
        found = compat.eval_multiple(weights, basis, ragged(golden))
    np.testing.assert_allclose(found, golden["accuracies_V_per_user"], atol=1e-6)
    assert "accuracy" in caplog.text
    one = torch.from_numpy(golden["V_one"])
    found = compat.eval_multiple([[1.0]] * len(weights), [one] * len(weights), ragged(golden))
    np.testing.assert_allclose(found, golden["accuracies_V_one"], atol=1e-6)


@pytest.mark.parametrize("golden", ["prism_datasets"], indirect=True)
def test_dialogs_become_the_same_pairs(golden) -> None:
    nested: dict = {}
    for user, dialog, chosen, rejected in zip(
        *(golden[f"row_{name}"] for name in ("user", "dialog", "chosen", "rejected")), strict=True
    ):
        sides = nested.setdefault(str(user), {}).setdefault(str(dialog), {"chosen": [], "rejected": []})
        sides["chosen"].append(torch.from_numpy(chosen))
        sides["rejected"].append(torch.from_numpy(rejected))
    found = compat.create_dataset_prism(nested)
    assert [len(own) for own in found] == golden["out_all_len"].tolist()
    np.testing.assert_array_equal(torch.cat(found).numpy(), golden["out_all_cat"])
    for case in range(int(golden["n_shots_cases"])):
        random.seed(int(golden[f"shots{case}_seed"]))
        found = compat.create_dataset_prism_shots(nested, int(golden[f"shots{case}_shots"]))
        np.testing.assert_array_equal(torch.cat(found).numpy(), golden[f"shots{case}_out_cat"])
    assert len(compat.create_dataset_prism({"nobody": {}})[0]) == 0
    assert len(compat.create_dataset_prism_shots(nested, 1_000)) == len(nested)


@pytest.mark.parametrize("golden", ["group_embeddings_by_user"], indirect=True)
def test_entries_are_grouped_by_user_as_in_the_original(golden) -> None:
    lists = []
    for name in ("train", "test"):
        columns = [golden[f"{name}_{field}"] for field in ("user_id", "seen", "split", "chosen", "rejected")]
        lists.append(
            [
                {
                    "extra_info": {
                        "user_id": str(user),
                        "seen": bool(seen),
                        "split": str(split),
                        "chosen_conv_embedding": torch.from_numpy(chosen),
                        "rejected_conv_embedding": torch.from_numpy(rejected),
                    }
                }
                for user, seen, split, chosen, rejected in zip(*columns, strict=True)
            ]
        )
    parts = compat.group_embeddings_by_user(*lists, "cpu")
    for name, part in zip(("train_seen", "train_unseen", "test_seen", "test_unseen"), parts, strict=True):
        expected = ragged(golden, f"out_{name}")
        assert len(part) == len(golden[f"out_{name}_users"])
        for own, other in zip(part, expected, strict=True):
            np.testing.assert_array_equal(own.numpy(), other.numpy())


@pytest.mark.parametrize("golden", ["run"], indirect=True)
@pytest.mark.parametrize("tag", ["main", "two_alpha"])
def test_the_experiment_gives_the_originals_accuracies(golden, tag: str) -> None:
    parts = [ragged(golden, name) for name in ("train", "test_seen", "train_unseen", "test_unseen")]
    grid = (golden[f"{tag}_K_list"].tolist(), golden[f"{tag}_alpha_list"].tolist())
    torch.manual_seed(int(golden[f"{tag}_seed"]))
    found = compat.run(*grid, torch.from_numpy(golden[f"{tag}_V_final"]), *parts, 10, 6, "cpu")
    names = ("train", "seen_unseen_prompts", "few_shot_train", "unseen_unseen_prompts")
    for at, name in enumerate([*names, *(f"{name}_std" for name in names)]):
        np.testing.assert_allclose(found[at], golden[f"{tag}_{name}"], atol=0.02)
    with pytest.raises(ShapeError, match="`N` and `N_unseen`"):
        compat.run(*grid, torch.from_numpy(golden[f"{tag}_V_final"]), *parts, 10, 7, "cpu")


@pytest.mark.parametrize("golden", ["run"], indirect=True)
def test_the_regularized_experiment_keeps_every_fit(golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "_REGULARIZED_STEPS", 200)
    parts = [ragged(golden, name) for name in ("train", "test_seen", "train_unseen", "test_unseen")]
    reference = torch.from_numpy(golden["main_V_final"])
    found = compat.run_regularized([0, 1, 3], [0.0, 10.0], reference, *parts, 10, 6, "cpu", tmp_path)
    assert np.array(found).shape == (8, 6)
    assert found[0][2] > 0.7  # rank 3 has learned its training pairs
    kept = load_file(tmp_path / "rank-3-alpha-0.safetensors")
    torch.testing.assert_close(kept["W"].sum(1), torch.ones(10))
    accuracies = [compat.evaluate_model(own, kept["V"], w) for own, w in zip(parts[0], kept["W"], strict=True)]
    assert np.mean(accuracies) == pytest.approx(found[0][2])
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("golden", ["run_few_shot_vary_shots"], indirect=True)
@pytest.mark.parametrize(("ranks", "tag"), [([2], "K2"), ([1, 2], "K12"), ([2, 1], "K21")])
def test_accuracies_by_shots_are_the_originals_and_no_point_of_the_grid_is_lost(golden, ranks, tag: str) -> None:
    parts = [ragged(golden, name) for name in ("train", "train_unseen", "test_unseen")]
    shots, reference = golden["num_shots"].tolist(), torch.from_numpy(golden["V_ref"])
    torch.manual_seed(int(golden["seed"]))
    found = compat.run_few_shot_vary_shots(2, [0], ranks, shots, *parts, reference, 8, 5, "cpu")
    for values, name in zip(
        found, ("few_shot_train_mean", "few_shot_train_std", "unseen_mean", "unseen_std"), strict=True
    ):
        assert len(values) == len(ranks) * len(shots)
        np.testing.assert_allclose(values[-len(shots) :], golden[f"{tag}_{name}"], atol=1e-6)


def test_a_missing_score_leaves_a_response_out() -> None:
    scores = np.empty((2, 3, 2), dtype=object)
    scores[:] = 1.0
    scores[0, :, 0], scores[1, :, 0] = [9.0, 2.0, 5.0], [1.0, 2.0, 3.0]
    scores[0, 0, 1] = None
    features = torch.eye(6).view(2, 3, 6)
    found = compat.simulate_population(scores, features, np.array([[1.0, 0.0]]))
    assert torch.equal(found[0, 0], features[0, 2] - features[0, 1])
    scores[1] = None
    with pytest.raises(DataError, match="prompt 1: every response lacks a score"):
        compat.simulate_population(scores, features, np.ones((1, 2)))
    with pytest.raises(ShapeError, match="must be"):
        compat.simulate_population(scores[:1], features, np.ones((1, 2)))


@pytest.mark.parametrize("golden", ["simulate"], indirect=True)
def test_simulated_choices_stand_where_a_tensor_does(golden, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = compat.simulate_population(golden["reward_tensor"], torch.from_numpy(golden["features"]), golden["W"])
    dense = torch.from_numpy(golden["population_out"])
    assert lazy.shape == dense.shape
    assert len(lazy) == len(dense)
    rows = torch.tensor([3, 0])
    for index in (
        0,
        -1,
        (2, rows),
        (slice(1, 3), rows),
        (slice(None), slice(0, 2)),
        (..., 0),
        (None, 0),
        [0, 2],
        (rows, rows),
        slice(0, 2),
        (0, 1, 2),
        torch.tensor([True, False] * 2 + [True]),
    ):
        part = lazy[index]
        assert torch.equal(part.dense() if isinstance(part, compat.SimulatedChoices) else part, dense[index])
    assert torch.equal(torch.stack(list(lazy)), dense)
    assert torch.equal(torch.cat([lazy, lazy]), torch.cat([dense, dense]))
    assert torch.equal(lazy.mean(), dense.mean())
    assert torch.equal(torch.sum(lazy, dim=0), dense.sum(0))
    assert torch.equal((lazy * 2 - lazy).abs(), dense.abs())
    assert torch.equal(-lazy, -dense)
    assert bool((lazy == dense).all())
    assert len(lazy[[0, 2]]) == 2
    with pytest.raises(AttributeError):
        _ = lazy.nothing
    monkeypatch.setattr(compat.SimulatedChoices, "dense", None)
    assert (lazy.dtype, lazy.device, lazy.ndim, lazy.dim()) == (dense.dtype, dense.device, 3, 3)
    assert (lazy.size(), lazy.size(1)) == (dense.shape, dense.shape[1])


def test_the_loss_is_finite_where_the_originals_was_not() -> None:
    differences = [torch.full((2, 3), -1e6)]
    model = compat.LoRe(torch.zeros(3), 0.0, 1, 3, 2, 5)
    with torch.no_grad():
        model.V.fill_(1.0)
    nll, _ = model(differences)
    assert float(nll.detach()) == pytest.approx(3e4)
    weights, basis = model.train(differences)
    assert bool(weights.isfinite().all() and basis.isfinite().all())


def test_documented_parameters_and_defaults_are_there() -> None:
    steps = {"num_iterations": 1000, "learning_rate": 0.01}
    for function, expected in [
        (compat.LoRe, steps),
        (compat.LoRe_regularized, steps),
        (compat.PersonalizeBatch, steps),
        (compat.learn_multiple_few_shot, steps),
        (compat.solve_regularized, steps),
        (compat.solve_regularized_simplex, steps),
    ]:
        parameters = inspect.signature(function).parameters
        assert {name: parameters[name].default for name in expected} == expected
    names = ["V_sft", "alpha", "num_classes", "num_features", "num_basis_vectors", "num_iterations", "learning_rate"]
    for kind in (compat.LoRe, compat.LoRe_regularized):
        assert list(inspect.signature(kind).parameters) == names
    assert list(inspect.signature(compat.PersonalizeBatch).parameters) == names[2:]
    assert list(inspect.signature(compat.simulate_user).parameters) == ["reward_tensor", "features", "w"]
    assert list(inspect.signature(compat.generate_popupulation).parameters) == ["alpha", "N"]
    assert len((Path(compat.__file__)).read_text().splitlines()) < 350

import json
from pathlib import Path

import pytest
import torch

from lore.errors import ConfigError, RunError, ShapeError
from lore.fitting.basis import RewardBasis, reference_basis


@pytest.fixture
def basis() -> RewardBasis:
    rng = torch.Generator().manual_seed(0)
    return RewardBasis(
        vectors=torch.randn(5, 3, generator=rng),
        center=torch.randn(5, generator=rng),
        population=torch.zeros(3),
        family="gaussian",
        rank=2,
        temperature=2.0,
        encoder={"encoder": "letters"},
        provenance={"seed": 1},
    )


def test_rewards_are_the_formula_for_one_and_for_many(basis: RewardBasis) -> None:
    embeddings, weights = torch.randn(4, 5), torch.randn(6, 3)
    expected = torch.stack([embeddings @ (basis.center + basis.vectors @ w) for w in weights])
    torch.testing.assert_close(basis.rewards(embeddings, weights), expected)
    torch.testing.assert_close(basis.rewards(embeddings, weights[0]), expected[0])
    assert basis.rewards(embeddings.double(), weights).dtype == torch.float64


def test_relabelling_directions_changes_no_reward(basis: RewardBasis) -> None:
    from dataclasses import replace

    order = torch.tensor([2, 0, 1])
    embeddings, weights = torch.randn(4, 5), torch.randn(6, 3)
    turned = replace(basis, vectors=basis.vectors[:, order])
    torch.testing.assert_close(turned.rewards(embeddings, weights[:, order]), basis.rewards(embeddings, weights))


def test_a_saved_basis_is_read_again_to_the_bit(basis: RewardBasis, tmp_path: Path) -> None:
    basis.save(tmp_path / "model")
    again = RewardBasis.load(tmp_path / "model")
    for name in ("vectors", "center", "population"):
        assert torch.equal(getattr(again, name), getattr(basis, name))
    assert (again.family, again.rank, again.temperature, again.encoder) == ("gaussian", 2, 2.0, {"encoder": "letters"})
    assert again.provenance["seed"] == 1
    assert {file.name for file in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert "personal data" in (tmp_path / "model" / "README.md").read_text()


def test_wrong_shapes_are_refused(basis: RewardBasis) -> None:
    with pytest.raises(ShapeError, match="responses, 5"):
        basis.rewards(torch.ones(2, 4), torch.ones(3))
    with pytest.raises(ShapeError, match="3 columns"):
        basis.rewards(torch.ones(2, 5), torch.ones(2))
    with pytest.raises(ShapeError, match="needs a center"):
        RewardBasis(torch.ones(5, 3), torch.ones(4), torch.ones(3), "simplex", 3)
    with pytest.raises(ConfigError, match="family"):
        RewardBasis(torch.ones(5, 3), torch.ones(5), torch.ones(3), "other", 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="temperature"):
        RewardBasis(torch.ones(5, 3), torch.ones(5), torch.ones(3), "simplex", 3, temperature=0)


def test_damaged_folders_are_refused(basis: RewardBasis, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file"):
        RewardBasis.load(tmp_path)
    basis.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, words in (({"format": 9}, "format 9"), ({"temperature": None}, "temperature")):
        broken = {name: value for name, value in (config | change).items() if value is not None}
        (tmp_path / "config.json").write_text(json.dumps(broken))
        with pytest.raises(RunError, match=words):
            RewardBasis.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = tmp_path / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:40])
    with pytest.raises(RunError, match="damaged"):
        RewardBasis.load(tmp_path)


def test_the_reference_is_the_same_for_everybody() -> None:
    reference = torch.randn(5)
    found = reference_basis(reference)
    torch.testing.assert_close(found.rewards(torch.eye(5), found.population), reference)

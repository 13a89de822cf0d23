from pathlib import Path

import pytest

import tiny_models
from lore.embedding import EncoderOptions, load_encoder
from lore.embedding.packaged import PACKAGED, default_encoder, installed_file, missing_default, model_named
from lore.errors import ConfigError, EncoderError
from lore.runs.config import TrainConfig


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the name that `smollm2` looks for, with a tiny model."""
    pytest.importorskip("gguf")
    folder = tmp_path / PACKAGED["smollm2"].module
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ImportError('is not imported')")
    tiny_models.save_gguf(folder / "tiny.gguf")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_a_packaged_model_is_found_without_importing_its_package(package: Path) -> None:
    assert installed_file("smollm2") == package / "tiny.gguf"
    encoder = load_encoder("smollm2", EncoderOptions(layer=1))
    assert encoder.fingerprint["pooling"] == "mean over the response"
    assert encoder.fingerprint["layer"] == 1
    both = load_encoder("minilm+smollm2", EncoderOptions(layer=1))
    assert both.dim > load_encoder("minilm").dim + encoder.dim  # and the difference of response and prompt


@pytest.mark.usefixtures("package")
def test_its_last_layer_can_be_asked_for() -> None:
    """So that `layer` "auto" may choose it: None is the model's own choice."""
    assert "layer" not in load_encoder("smollm2", EncoderOptions(layer="last")).fingerprint


@pytest.mark.usefixtures("package")
def test_its_layer_is_its_own_unless_another_is_named() -> None:
    with pytest.raises(EncoderError, match="has 2 layers, got `layer` 20"):
        load_encoder("smollm2")
    assert PACKAGED["smollm2"].options(EncoderOptions(pooling="last")).pooling == "last"


def test_a_model_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EncoderError, match="run `lore download smollm2`"):
        installed_file("smollm2")
    with pytest.raises(ConfigError, match="the names are smollm2"):
        model_named("smollm3")


def test_the_best_that_is_installed_is_the_default(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (default_encoder(), missing_default()) == ("minilm", None)  # named by the environment
    monkeypatch.delenv("LORE_ENCODER")
    assert (default_encoder(), missing_default()) == ("minilm+smollm2", None)
    assert TrainConfig().to_json()["encoder"] == "minilm+smollm2"  # a run remembers it
    (package / "tiny.gguf").unlink()
    assert default_encoder() == TrainConfig().encoder == "minilm"
    assert "lore download smollm2" in str(missing_default())

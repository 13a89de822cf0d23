from pathlib import Path

import pytest

import tiny_models
from builders import small_rows
from lore.data.formats import load
from lore.data.preferences import Preferences


@pytest.fixture
def preferences() -> Preferences:
    return load(small_rows(users=3, prompts=6))


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model whose template ends a text with the token that is also the padding."""
    return tiny_models.save(tmp_path_factory.mktemp("reward-model"))


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("language-model"), "causal")

import pytest

from builders import HashEncoder
from lore.errors import ConfigError
from lore.runs.config import TrainConfig


@pytest.mark.parametrize(
    "change", [{"pairs_per_user": 0}, {"ranks": ()}, {"split_by": "row"}, {"unseen": 1.5}, {"test": 1.0}, {"shots": 0}]
)
def test_bad_arguments_are_refused_by_name(change) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        TrainConfig(**change)


def test_an_encoder_object_has_no_name_to_be_loaded_by() -> None:
    encoder = HashEncoder()
    encoder.fingerprint = {"model": "mine"}
    config = TrainConfig(encoder=encoder)
    assert config.to_json()["encoder"] == "HashEncoder"
    assert config.provenance("data")["encoder_argument"] is None
    assert TrainConfig().provenance("data")["encoder_argument"] == "minilm"

import pytest

from lore.errors import ConfigError
from lore.runs.config import TrainConfig


@pytest.mark.parametrize(
    "change", [{"pairs_per_user": 0}, {"ranks": ()}, {"split_by": "row"}, {"unseen": 1.5}, {"test": 1.0}, {"shots": 0}]
)
def test_bad_arguments_are_refused_by_name(change) -> None:
    with pytest.raises(ConfigError):
        TrainConfig(**change)

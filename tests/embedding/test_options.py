from typing import Any

import pytest

from lore.embedding import EncoderOptions, load_encoder
from lore.errors import ConfigError, MissingExtra


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"truncation": "cut"}, "`truncation` must be one of error, drop, left, right, got 'cut'"),
        ({"max_length": 3}, "`max_length` must be a whole number of 8"),
        ({"batch_tokens": 0}, "`batch_tokens`"),
        ({"dtype": "float8"}, "`dtype`"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EncoderOptions(**options)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"lore-reward\[embed\]"):
        load_encoder("minilm")


@pytest.mark.parametrize(
    "choice", [{"batch_tokens": "many"}, {"max_length": 9.5}, {"storage": None}, {"share_prompts": 1}]
)
def test_values_of_another_kind_are_refused(choice: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(choice))):
        EncoderOptions(**choice)

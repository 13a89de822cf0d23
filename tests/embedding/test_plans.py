from pathlib import Path

from lore.data.preferences import Preferences
from lore.embedding import encode, load_encoder, plan


def test_the_plan_says_what_there_is_to_do(preferences: Preferences, tmp_path: Path, language_model: Path) -> None:
    encoder = load_encoder(str(language_model))
    before = plan(preferences, encoder, tmp_path / "store")
    assert (before.conversations, before.present) == (preferences.rows, 0)
    assert before.read is not None
    assert before.tokens is not None
    assert 0 < before.read < before.tokens
    assert before.bytes == preferences.rows * 16 * 4
    assert before.seconds > 0
    assert not (tmp_path / "store").exists()
    encode(preferences, encoder, tmp_path / "store")
    after = plan(preferences, encoder, tmp_path / "store")
    assert (after.present, after.bytes, after.seconds) == (preferences.rows, 0, 0.0)
    assert f"{preferences.rows} of them in the store already" in after.message()

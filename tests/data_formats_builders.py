from lore.data.messages import text_of
from lore.data.preferences import Preferences

ROW = {"user_id": "a", "prompt": "Hi", "chosen": "good", "rejected": "bad"}


def choices(preferences: Preferences) -> set[tuple[str, str, str, str]]:
    """User, prompt, chosen and rejected of every comparison, as texts."""
    return {
        (
            preferences.users[user],
            text_of(preferences.conversation(chosen)[0]),
            text_of(preferences.conversation(chosen)[1]),
            text_of(preferences.conversation(rejected)[1]),
        )
        for user, chosen, rejected in zip(preferences.user, preferences.chosen, preferences.rejected, strict=True)
    }

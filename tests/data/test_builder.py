from typing import Any

import lore
from lore.data.preferences import Preferences


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if at % 2 else "user", "content": text} for at, text in enumerate(texts)]


def row(user: str, prompt: Any, chosen: str, rejected: str) -> dict[str, Any]:
    return {"user_id": user, "prompt": prompt, "chosen": chosen, "rejected": rejected}


def group_of_prompts(prefs: Preferences) -> list[int]:
    groups = dict(zip(prefs.row_prompt.tolist(), prefs.row_group.tolist(), strict=True))
    return [groups[number] for number in range(len(prefs.prompts))]


def test_a_prompt_that_quotes_the_reply_to_an_earlier_one_is_in_its_group() -> None:
    prefs = lore.load(
        [
            row("ann", "Hi", "Hello!", "What?"),
            row("ann", turns("Hi", "Hello!", "And now?"), "Tea.", "Coffee."),
            row("ann", turns("Hi", "Hello!", "And now?", "Tea.", "Green?"), "Yes.", "No."),
            row("bob", "Who is there?", "Me.", "You."),
        ]
    )
    assert group_of_prompts(prefs) == [0, 0, 0, 3]


def test_a_prompt_that_quotes_what_nobody_judged_is_its_own_group() -> None:
    prefs = lore.load(
        [
            row("ann", "Hi", "Hello!", "What?"),
            row("bob", turns("Hi", "Good day.", "And now?"), "Tea.", "Coffee."),
            row("cat", turns("Hi", "Good day.", "And then?"), "Tea.", "Coffee."),
        ]
    )
    assert group_of_prompts(prefs) == [0, 1, 2]


def test_groups_that_are_given_are_kept() -> None:
    rows = [
        row("ann", "Hi", "Hello!", "What?") | {"group": "a"},
        row("ann", turns("Hi", "Hello!", "And now?"), "Tea.", "Coffee.") | {"group": "b"},
    ]
    assert group_of_prompts(lore.load(rows)) == [0, 1]

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lore.data.formats import load
from lore.data.messages import (
    MessageFault,
    conversation_of,
    for_template,
    parse_messages,
    text_of,
    without_prompt,
)

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
CALL_TEXT = '[{"function": {"arguments": {"city": "Rome"}, "name": "weather"}, "type": "function"}]'


def parsed(value: Any) -> Any:
    return parse_messages("turns", value, "assistant", lambda _, text: str(text))


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": [CALL | {"id": "call_1"}]},
        {"role": "assistant", "content": [], "tool_calls": np.array([CALL], dtype=object)},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
        {
            "role": "assistant",
            "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}],
        },
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city": "Rome"}'}},
    ],
)
def test_calls_of_tools_are_one_message_however_they_are_spelled(message: Any) -> None:
    assert parsed([message]) == (("tool_calls", CALL_TEXT),)


def test_a_template_that_knows_calls_gets_them_and_others_get_their_text() -> None:
    messages = parsed([{"role": "assistant", "content": "Let me look.", "tool_calls": [CALL]}])
    assert for_template(messages, with_calls=True) == [
        {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL]}
    ]
    assert for_template(messages, with_calls=False) == [{"role": "assistant", "content": f"Let me look.\n{CALL_TEXT}"}]
    assert for_template(messages[1:], with_calls=True)[0]["tool_calls"] == [CALL]
    twice = for_template(messages + messages[1:], with_calls=True)
    assert [turn["tool_calls"] for turn in twice] == [[CALL], [CALL]]
    assert "weather" in text_of(messages)


def test_what_only_calls_itself_calls_is_read_as_text() -> None:
    for text in ("not JSON", '{"a": 1}', "[1]"):
        assert for_template((("tool_calls", text),), with_calls=True) == [{"role": "assistant", "content": text}]


def test_text_parts_are_lines_of_one_text_and_others_are_refused_by_name() -> None:
    parts = [{"type": "text", "text": "a", "image": None}, {"type": "output_text", "text": "b"}, "c"]
    assert parsed([{"role": "assistant", "content": parts}]) == (("assistant", "a\nb\nc"),)
    with pytest.raises(MessageFault, match="kind `image_url`"):
        parsed([{"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}])


def test_sharegpt_turns_are_messages() -> None:
    turns = [{"from": who, "value": "x"} for who in ("system", "human", "gpt", "observation")]
    assert [role for role, _ in parsed(turns)] == ["system", "user", "assistant", "tool"]
    with pytest.raises(MessageFault, match="unknown role 'me'"):
        parsed([{"from": "me", "value": "x"}])


def test_one_message_by_itself_is_a_list_of_one() -> None:
    assert parsed(assistant("x")) == parsed({"from": "gpt", "value": "x"}) == (("assistant", "x"),)


@pytest.mark.parametrize(
    "value",
    [
        [1],
        [{"role": "assistant"}],
        [{"content": "x"}],
        [],
        [{"role": "assistant", "content": "x", "tool_calls": "lost"}],
        [{"role": "assistant", "content": "x", "tool_calls": 7}],
        [{"role": "assistant", "content": [{"type": [], "text": "x"}]}],
        [{"role": [], "content": "x"}],
    ],
)
def test_what_is_no_message_is_refused(value: Any) -> None:
    with pytest.raises(MessageFault):
        parsed(value)


turn = st.tuples(st.sampled_from(["user", "assistant", "system"]), st.sampled_from("abc"))


@given(st.lists(turn, max_size=4), st.lists(turn, min_size=1, max_size=3), st.lists(turn, min_size=1, max_size=3))
def test_a_conversation_is_one_however_much_of_it_stands_in_the_prompt(
    prompt: list[Any], chosen: list[Any], rejected: list[Any]
) -> None:
    """Whole conversations on both sides are one with or without a prompt that repeats their beginning."""
    prompt = [*prompt, ("user", "d")]
    whole = [tuple(prompt + chosen), tuple(prompt + rejected)]
    implicit = without_prompt((), whole)
    for turns in range(len(prompt) + 1):
        if turns == 0 or prompt[turns - 1][0] != "assistant":
            assert without_prompt(tuple(prompt[:turns]), whole) == implicit
    shared, answers = implicit
    assert [tuple(shared) + tuple(answer) for answer in answers] == whole  # nothing is lost
    assert all(answers)


def test_a_prompt_is_taken_off_each_side_that_repeats_it() -> None:
    system, asked = ("system", "Be brief."), ("user", "Hi")
    good, bad = ("assistant", "Hello."), ("assistant", "What?")
    once = ((system, asked), [(good,), (bad,)])
    assert without_prompt((system, asked), [(asked, good), (asked, bad)]) == once
    assert without_prompt((asked,), [(system, asked, good), (system, asked, bad)]) == once
    assert without_prompt((system, asked), [(asked, good), (bad,)]) == once
    assert without_prompt((system, asked), [(system, ("user", " Hi\n"), good), "What?"]) == once
    # The first answers differ: what follows them is no prompt.
    longer = [(good, asked, good), (bad, asked, bad)]
    assert without_prompt((asked,), longer) == ((asked,), longer)


def test_a_single_response_does_not_repeat_its_prompt() -> None:
    prompt, answer = (("user", "Hi"),), (("assistant", "Hello."),)
    assert conversation_of(prompt, prompt + answer) == (prompt, answer)
    assert conversation_of(prompt, answer) == (prompt, answer)
    assert conversation_of((), prompt + answer) == (prompt, answer)
    system = (("system", "Be brief."),)
    assert conversation_of(prompt, system + prompt + answer) == (system + prompt, answer)


def rows() -> list[dict[str, Any]]:
    return [
        {"user_id": f"u{n % 3}", "prompt": f"Question {n}?", "chosen": f"Good answer {n}.", "rejected": f"Bad {n}."}
        for n in range(12)
    ]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def spelled(how: str, row: dict[str, Any]) -> dict[str, Any]:
    prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
    sides = {"chosen": [user(prompt), assistant(chosen)], "rejected": [user(prompt), assistant(rejected)]}
    alone = {"chosen": [assistant(chosen)], "rejected": [assistant(rejected)]}
    who = {"user_id": row["user_id"]}
    transcript = "\n\nHuman: {}\n\nAssistant: {}".format
    spellings: dict[str, dict[str, Any]] = {
        "lists": {"prompt": [user(prompt)]} | alone,
        "arrays": {"prompt": np.array([user(prompt)])} | {name: np.array(value) for name, value in alone.items()},
        "implicit": sides,
        "text and turns": {"prompt": prompt} | sides,
        "list and turns": {"prompt": [user(prompt)]} | sides,
        "parts": {"prompt": [user(prompt) | {"content": [{"type": "text", "text": prompt}]}]} | alone,
        "ShareGPT": {
            name: [{"from": "human", "value": prompt}, {"from": "gpt", "value": turns[1]["content"]}]
            for name, turns in sides.items()
        },
        "JSON texts": {"prompt": prompt} | {name: json.dumps(turns) for name, turns in sides.items()},
        "Python texts": {"prompt": str([user(prompt)])} | {name: str(turns) for name, turns in alone.items()},
        "numpy texts": {name: str(turns).replace("}, {", "}\n {") for name, turns in sides.items()},
        "transcripts": {"chosen": transcript(prompt, chosen), "rejected": transcript(prompt, rejected)},
        "transcript and answers": {
            "prompt": transcript(prompt, ""),
            "chosen": transcript(prompt, chosen),
            "rejected": transcript(prompt, rejected),
        },
    }
    return who | spellings[how]


@pytest.mark.parametrize(
    "how",
    [
        "lists",
        "arrays",
        "implicit",
        "text and turns",
        "list and turns",
        "parts",
        "ShareGPT",
        "JSON texts",
        "Python texts",
        "numpy texts",
        "transcripts",
        "transcript and answers",
    ],
)
def test_a_file_has_one_fingerprint_however_its_conversations_are_spelled(how: str) -> None:
    assert load([spelled(how, row) for row in rows()]).fingerprint() == load(rows()).fingerprint()

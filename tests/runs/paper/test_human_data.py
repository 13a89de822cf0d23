import json
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import WORDS
from lore.data.checks import check
from lore.data.formats import load_with_issues
from lore.data.messages import text_of
from lore.errors import ConfigError, DataError, RunError
from lore.runs.paper.protocols import load_settings
from lore.runs.paper.reproduce import reproduce
from lore.runs.steps import evaluate_step
from lore.runs.training import train
from runs_paper_builders import personalllm_rows, report_of, tldr_rows, written


def prism_lines(people: int = 12, dialogs: int = 6) -> list[dict[str, Any]]:
    """Conversations of the published schema: turns with several rejected replies, one, or none; two chosen; empty."""
    lines = []
    for person in range(people):
        for dialog in range(dialogs if person else 2):
            history: list[dict[str, Any]] = []
            for turn in range(2):
                words = [WORDS[(person + 3 * dialog + step + turn) % 12] for step in range(4)]
                texts = [
                    f"{words[0]} {person}{dialog}{turn}",
                    f"{words[1]} {words[2]} {dialog}{person}{turn}",
                    words[3],
                ]
                texts = texts[: 1 + (dialog + turn) % 3]
                liked = max(range(len(texts)), key=lambda at, t=texts, p=person: len(t[at]) * (-1) ** p)
                common = {"turn": turn, "within_turn_id": 0, "model_name": "m", "model_provider": "p", "score": 50}
                history.append(common | {"role": "user", "content": f"Ask {person} {dialog} {turn}", "if_chosen": None})
                history += [
                    common | {"role": "model", "content": text, "if_chosen": at == liked, "within_turn_id": at}
                    for at, text in enumerate(texts)
                ]
            line = {
                "conversation_id": f"c{person}-{dialog}",
                "user_id": f"user{person}",
                "conversation_history": history,
            }
            lines.append(line | {"conversation_type": "unguided", "opening_prompt": history[0]["content"]})
    lines[5]["conversation_history"][-1]["if_chosen"] = True
    lines[6]["conversation_history"][1]["content"] = ""
    return lines


@pytest.mark.parametrize("protocol", ["lore", "original"])
def test_prism_is_reproduced_with_dialogs_whole_on_one_side(tmp_path: Path, protocol: str) -> None:
    data = written(tmp_path / "data", conversations=prism_lines())
    parts = reproduce("prism", tmp_path / "run", data=data, protocol=protocol).split
    assert "user0" not in parts.seen_train.users + parts.unseen_shots.users  # has two dialogs
    assert len(parts.unseen_shots.users) == 3
    for both in ((parts.seen_train, parts.seen_test), (parts.unseen_shots, parts.unseen_test)):
        sides = [set(part.group[part.chosen].tolist()) for part in both]
        assert sides[0].isdisjoint(sides[1])
    again = reproduce("prism", tmp_path / "again", data=data, protocol=protocol, seed=7).split
    assert again.to_json()["seen_users"] == parts.to_json()["seen_users"]  # the published seed of the split
    assert report_of(tmp_path / "run")["config"]["experiment"] == "prism"


def test_a_split_that_was_saved_is_used_again(tmp_path: Path) -> None:
    data = written(tmp_path / "data", conversations=prism_lines())
    first = reproduce("prism", tmp_path / "run", data=data).split
    state = json.loads((tmp_path / "run" / "split.json").read_text())
    # What the file says counts, not what would be drawn: one comparison goes from test to training.
    state["comparisons"]["seen_train"].append(state["comparisons"]["seen_test"].pop(0))
    (tmp_path / "mine.json").write_text(json.dumps(state))
    again = reproduce("prism", tmp_path / "again", data=data, split_file=tmp_path / "mine.json").split
    assert again.to_json()["comparisons"] == state["comparisons"]
    assert len(again.seen_train) == len(first.seen_train) + 1
    (tmp_path / "run" / "split.json").write_text(json.dumps(state))
    steps = evaluate_step(tmp_path / "run")["seen_train"]  # the steps use it again, too
    assert int(steps.pairs) == len(first.seen_train) + 1
    other = written(tmp_path / "other", conversations=prism_lines(people=14))
    with pytest.raises(DataError, match="is not the split of these data"):
        reproduce("prism", tmp_path / "third", data=other, split_file=tmp_path / "mine.json")
    with pytest.raises(ConfigError, match="simulates its users"):
        reproduce("personalllm", tmp_path / "fourth", split_file=tmp_path / "mine.json")


def test_prism_cannot_be_told_apart_by_form_and_the_originals_rendering_of_it_is_refused(tmp_path: Path) -> None:
    reading = load_with_issues(written(tmp_path / "data", conversations=prism_lines()))
    assert not check(reading.preferences, reading.issues).fatal
    rendered = []
    for at in range(len(reading.preferences)):
        table = reading.preferences
        sides = [text_of(table.conversation(int(row[at]))[1]) for row in (table.chosen, table.rejected)]
        # The rejected replies were a list, which the chat template printed as one.
        user = table.users[table.user[at]]
        rendered.append({"user_id": user, "prompt": f"Ask {at}", "chosen": sides[0], "rejected": f"{[sides[1]]}"})
    leaking = load_with_issues(rendered)
    fatal = check(leaking.preferences, leaking.issues).fatal
    assert {found.kind for found in fatal} == {"chosen and rejected can be told apart by form"}
    with pytest.raises(DataError, match="form alone gives the answer away; render both sides alike"):
        train(leaking, tmp_path / "run")


def test_prism_of_too_few_people_and_given_embeddings_are_refused(tmp_path: Path) -> None:
    data = written(tmp_path / "data", conversations=prism_lines(people=2))
    with pytest.raises(DataError, match="users with 4 dialogs or more"):
        reproduce("prism", tmp_path / "run", data=data)
    for option in ({"embeddings": tmp_path}, {"concentration": 1.0}):
        with pytest.raises(ConfigError, match="for personalllm"):
            reproduce("prism", tmp_path / "run", data=data, **option)
    with pytest.raises(ConfigError, match="`concentration` must be a positive number, got 0"):
        reproduce("personalllm", tmp_path / "run", data=data, concentration=0.0)


@pytest.mark.parametrize("protocol", ["lore", "original"])
def test_tldr_takes_workers_of_both_splits_and_tests_on_their_validation_rows(tmp_path: Path, protocol: str) -> None:
    data = written(tmp_path / "data", rows=tldr_rows()) / "rows.jsonl"
    parts = reproduce("tldr", tmp_path / "run", data=data, protocol=protocol, seed=0).split
    people = {*parts.seen_train.users, *parts.unseen_shots.users}
    assert people == {f"w{worker}" for worker in range(2, 10)}
    assert [len(part) for part in parts.parts().values()] == [4 * 12, 4 * 10, 4 * 6, 4 * 10]
    shots = [r for r in report_of(tmp_path / "run")["results"] if r["shots"] is not None]
    assert {result["shots"] for result in shots} == {1, 5}


def test_training_rows_that_share_a_response_with_a_test_row_are_dropped(tmp_path: Path) -> None:
    rows = tldr_rows()
    for row in rows:  # the first summary of every fifth post is always the same
        if row["info"]["id"].endswith(("0", "5")):
            row["summaries"][0]["text"] = "The same summary"
    parts = reproduce("tldr", tmp_path / "run", data=written(tmp_path / "data", rows=rows) / "rows.jsonl").split
    tested = set(parts.seen_test.response[torch.cat([parts.seen_test.chosen, parts.seen_test.rejected])].tolist())
    trained = parts.seen_train.response[torch.cat([parts.seen_train.chosen, parts.seen_train.rejected])]
    assert parts.dropped == 9 * 4
    assert tested.isdisjoint(trained.tolist())


def test_training_choices_of_a_response_that_is_in_the_test_split_are_dropped(
    personalllm: Path, tmp_path: Path
) -> None:
    test = personalllm_rows(10, 100)
    train = personalllm_rows(24, 0)
    for row in train:
        row["response_8"] = test[0]["response_1"]
    written(personalllm, train=train, test=test)
    parts = reproduce("personalllm", tmp_path / "run", data=personalllm, seed=1).split
    assert parts.dropped > 0
    assert len(parts.seen_train) + len(parts.unseen_shots) + parts.dropped == 24 * 12 + 8 * 4


def test_an_interrupted_original_run_goes_on_with_its_seed(personalllm: Path, tmp_path: Path) -> None:
    def interrupt(task: str, done: int, total: int, note: str = "") -> None:  # noqa: ARG001 - of the protocol
        if task == "fitting" and done == 1:
            raise KeyboardInterrupt

    how = {"data": personalllm, "protocol": "original"}
    with pytest.raises(KeyboardInterrupt):
        reproduce("personalllm", tmp_path / "run", **how, progress=interrupt)
    state = json.loads((tmp_path / "run" / "run.json").read_text())
    reproduce("personalllm", tmp_path / "run", **how)
    assert report_of(tmp_path / "run")["config"]["seed"] == state["config"]["seed"]
    with pytest.raises(RunError, match="exists already"):
        reproduce("personalllm", tmp_path / "run", **how)


def test_rows_of_human_data_that_are_not_the_published_ones_are_refused(tmp_path: Path) -> None:
    lines = prism_lines()
    for bad in ("text", [{"turn": None, "role": "user", "content": "x"}], [{"turn": 0, "role": "user"}]):
        data = written(tmp_path / "prism", conversations=[*lines, lines[0] | {"conversation_history": bad}])
        with pytest.raises(DataError, match="not a list of utterances"):
            reproduce("prism", tmp_path / "run", data=data)
    row = tldr_rows()[0]
    for change, words in (
        ({"choice": 0.5}, "`choice` is not 0 or 1"),
        ({"summaries": ["a", "b"]}, "something else than objects"),
        ({"split": None}, "a row has no `split`"),
    ):
        data = written(tmp_path / "tldr", rows=[*tldr_rows(), row | change]) / "rows.jsonl"
        with pytest.raises(DataError, match=words):
            reproduce("tldr", tmp_path / "run", data=data)
    for names in (("tldr", "other"), ("other", "lore")):
        with pytest.raises(ConfigError, match="must be one of"):
            load_settings(*names)


def test_tldr_without_its_columns_or_workers_is_refused(tmp_path: Path) -> None:
    rows = tldr_rows()
    for row in rows:
        del row["split"]
    with pytest.raises(DataError, match="no column `split`"):
        reproduce("tldr", tmp_path / "run", data=written(tmp_path / "data", rows=rows) / "rows.jsonl")
    few = [row for row in tldr_rows() if row["worker"] in ("w0", "w1", "w2")]
    with pytest.raises(DataError, match="1 workers are in training and in validation"):
        reproduce("tldr", tmp_path / "other", data=written(tmp_path / "data", rows=few) / "rows.jsonl")

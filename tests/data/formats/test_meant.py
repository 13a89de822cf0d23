"""Rows that could be read as something else than was meant: read right, or refused with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders import small_rows
from data_formats_builders import ROW, choices
from lore.data.checks import check
from lore.data.formats import load, load_with_issues
from lore.errors import DataError


def test_an_open_quote_does_not_swallow_the_rest_of_a_file(tmp_path: Path) -> None:
    rows = "".join(f"u{n},p{n},x{n},y{n}\n" for n in range(20))
    (tmp_path / "x.csv").write_text("user_id,prompt,chosen,rejected\n" + rows + 'u,p,x,"y\n' + rows)
    with pytest.raises(DataError, match="not valid CSV"):
        load(tmp_path / "x.csv")


def test_what_a_spreadsheet_adds_to_csv_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('sep=;\nuser_id;"prompt";chosen;rejected;;\nu;a, b;x;;;\n')
    assert choices(load(tmp_path / "x.csv")) == {("u", "a, b", "x", "")}


def test_empty_cells_are_absent_where_no_text_belongs(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("user_id,prompt,a,b,winner,weight,group,note\nu,p,,y,b,,,\n")
    preferences = load(tmp_path / "x.csv", columns={"left": "a", "right": "b"})
    assert choices(preferences) == {("u", "p", "y", "")}
    assert preferences.weight.tolist() == [1.0]
    assert list(preferences.extra) == ["chosen_side"]


def test_lists_in_csv_are_read_and_lists_that_are_not_best_first_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('user_id,prompt,responses\nu,p,"[""good"", ""bad""]"\n')
    assert choices(load(tmp_path / "x.csv")) == {("u", "p", "good", "bad")}
    row = {"user_id": "u", "prompt": "p", "responses": ["bad", "good"]}
    for other in ({"scores": [1, 5]}, {"ratings": [1.0, 2.0]}, {"ranks": [2, 1]}, {"choice": 1}, {"winner": "b"}):
        with pytest.raises(DataError, match="`responses`"):
            load([row | other])
    assert len(load([row | {"scores": [5, 5], "ranks": [1, 2], "choice": 0}])) == 1


def test_answers_that_are_json_are_answers() -> None:
    row = {
        "judge": "j",
        "winner": "model_a",
        "prompt": "List fruits as JSON",
        "response_a": '["apple", "pear"]',
        "response_b": '["apple"]',
    }
    assert choices(load([row])) == {("j", "List fruits as JSON", '["apple", "pear"]', '["apple"]')}
    assert choices(load([row | {"prompt": "[1, 2]"}])) == {("j", "[1, 2]", '["apple", "pear"]', '["apple"]')}
    with pytest.raises(DataError, match="different lengths"):
        load([row | {"prompt": '["q1", "q2"]'}])
    assert len(load([row | {"prompt": "[" * 100_000}])) == 1


def test_two_columns_and_a_winner_are_read_under_any_name() -> None:
    row = {"user": "u", "prompt": "p", "response_a": "x", "response_b": "y", "winner": "b"}
    for winner in ("b", "B", "model_b", "response_b", "right"):
        columns = {"user_id": "user", "left": "response_a", "right": "response_b"}
        assert choices(load([row | {"winner": winner}], columns=columns)) == {("u", "p", "y", "x")}
    assert choices(load([row], columns={"user_id": "user"})) == {("u", "p", "y", "x")}


def test_a_column_that_an_export_takes_can_be_named() -> None:
    row = {"user": "u", "history": "p", "human_ref_A": "x", "human_ref_B": "y", "labels": 1}
    assert choices(load([row], columns={"user_id": "user", "prompt": "history"})) == {("u", "p", "x", "y")}


def test_columns_of_lengths_are_no_scores_and_no_users() -> None:
    row = {"prompt": "p", "response_1": "x", "response_2": "y", "response_1_length": 1, "response_2_length": 2}
    with pytest.raises(DataError, match="columns not understood"):
        load([row | {"user_id": "u", "winner": 1}])
    columns = {"left": "response_1", "right": "response_2"}
    winner = row | {"user_id": "u", "winner": "response_2"}
    assert choices(load([winner], columns=columns)) == {("u", "p", "y", "x")}
    with pytest.raises(DataError, match="missing field `response_3`"):
        load([row | {"response_3_gemma_2b": 1.0}])


def test_several_questions_about_one_record_are_refused_by_name() -> None:
    record = {"prompt": "p", "response": "x"}
    for question, value in (("helpful", 4), ("honest", 1)):
        record |= {f"{question}.responses": [value], f"{question}.responses.users": ["u"]}  # type: ignore[dict-item]
    with pytest.raises(DataError, match=r"several questions judge one record \(helpful, honest\)"):
        load([record])
    comment = record | {"honest.responses": ["so so"]}
    loaded = load_with_issues([comment])
    assert loaded.preferences.ratings is not None
    assert loaded.preferences.ratings.rating.tolist() == [4.0]
    assert [issue.count for issue in loaded.issues] == [1]
    for result in ("a", "b"):
        results = [{"from_name": name, "type": "rating", "value": {"rating": 1}} for name in ("a", result)]
        task = {"data": {"response": "x"}, "annotations": [{"completed_by": 1, "result": results}]}
        if result == "b":
            with pytest.raises(DataError, match="several questions"):
                load([task])


def test_responses_of_one_rank_are_not_compared() -> None:
    answers = [{"answer": text, "rank": rank} for text, rank in (("x", 1), ("y", 1), ("z", 2))]
    loaded = load_with_issues([{"user_id": "u", "prompt": "p", "answers": answers}])
    assert choices(loaded.preferences) == {("u", "p", "x", "z"), ("u", "p", "y", "z")}
    assert [issue.kind for issue in loaded.issues] == ["responses of one rank"]


def test_drafts_and_results_of_other_kinds_are_counted() -> None:
    record = {"prompt": "p", "response": "x", "q.responses": [4, 5], "q.responses.users": ["u", "v"]}
    loaded = load_with_issues([record | {"q.responses.status": ["submitted", "draft"]}])
    assert [(issue.kind, issue.count) for issue in loaded.issues] == [("responses that are 'draft'", 1)]
    with pytest.raises(DataError, match="not as many users"):
        load([record | {"q.responses.users": ["u"]}])
    results: list[dict[str, Any]] = [{"from_name": "q", "type": "choices", "value": {"choices": ["good"]}}]
    with pytest.raises(DataError, match="results of type 'choices'"):
        load([{"data": {"response": "x"}, "annotations": [{"completed_by": 1, "result": results}]}])


def test_of_an_export_with_comparisons_and_thumbs_the_more_frequent_are_read_and_the_others_counted() -> None:
    rows = json.loads((Path(__file__).parent / "exports" / "open_webui.json").read_text())
    alone = json.loads(json.dumps(rows[0]))
    alone["snapshot"]["chat"]["chat"]["history"]["messages"]["m0"]["childrenIds"] = ["m1"]
    loaded = load_with_issues([*rows, alone | {"data": alone["data"] | {"rating": 1.0}}])
    assert len(loaded.preferences) == 2
    assert [(issue.fatal, issue.count) for issue in loaded.issues] == [(False, 1)]


def test_sides_that_are_names_of_columns_and_winners_that_contradict_them_are_refused() -> None:
    row = {"user_id": "u", "prompt": "p", "a": "x", "b": "y", "chosen": "b", "rejected": "a"}
    with pytest.raises(DataError, match="`chosen` holds names of columns, such as 'b'"):
        load([row])
    with pytest.raises(DataError, match="`winner` is 'rejected'"):
        load([ROW | {"winner": "rejected"}, ROW])
    columns = {"left": "a", "right": "b", "winner": "chosen"}
    assert choices(load([row], columns=columns)) == {("u", "p", "y", "x")}


def test_a_list_of_objects_in_one_row_is_no_file_of_rows(tmp_path: Path) -> None:
    messages = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": messages, "user_id": "u", "rejected_response": "b"}))
    assert choices(load(tmp_path / "x.jsonl")) == {("u", "q", "a", "b")}


@pytest.mark.parametrize("label", [0.0, 0.2])
def test_the_preferred_side_is_that_of_the_label(label: float) -> None:
    """Findings about chosen and rejected look at what was preferred, not at where it stands."""
    rows = [row | {"label": 1.0} for row in small_rows(4, 12)]
    flipped = [
        row | {"chosen": row["rejected"], "rejected": row["chosen"], "label": label} if n % 2 else row
        for n, row in enumerate(rows)
    ]
    dotted = [row | {"chosen": row["chosen"] + " Done."} for row in rows]
    for table, expected in ((rows, False), (dotted, True)):
        mixed = [
            row | {"chosen": row["rejected"], "rejected": row["chosen"], "label": label} if n % 2 else row
            for n, row in enumerate(table)
        ]
        assert any("told apart by form" in issue.kind for issue in check(load(mixed)).issues) is expected
    twice = [ROW, ROW | {"label": label}]
    assert "a user chose both ways" in {issue.kind for issue in check(load(twice)).issues}
    assert {issue.kind for issue in check(load(flipped)).issues} == {issue.kind for issue in check(load(rows)).issues}


def test_messages_of_other_roles_on_one_side_are_a_form() -> None:
    rows = [
        row
        | {
            "chosen": [{"role": "system", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }
        for row in small_rows(4, 12)
    ]
    assert "made of messages by" in next(issue.message for issue in check(load(rows)).fatal)


def test_rows_without_a_prompt_and_ids_of_nothing_are_said() -> None:
    rows = [row | {"prompt": None} if n % 5 == 0 else row for n, row in enumerate(small_rows(4, 12))]
    rows[1]["user_id"] = "nan"
    issues = {issue.kind: issue for issue in check(load(rows)).issues}
    assert issues["no prompt"].count == 10
    assert "'nan'" in issues["user ids that look like missing values"].message


def test_turns_of_a_user_inside_a_response_are_said() -> None:
    turns = {name: [{"role": "user", "content": name}, {"role": "assistant", "content": "x"}] for name in ("a", "b")}
    loaded = load_with_issues([ROW | {"chosen": turns["a"], "rejected": turns["b"]}])
    assert [issue.kind for issue in loaded.issues] == ["a response begins with a user's turn"]
    ends = [{"role": "assistant", "content": "x"}, {"role": "user", "content": "thanks"}]
    loaded = load_with_issues([ROW | {"chosen": ends, "rejected": ends[:1]}])
    assert [issue.kind for issue in loaded.issues] == ["a response ends with a user's turn"]


def test_a_file_of_prism_is_asked_for_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "conversations.jsonl").write_text('{"user_id": "u", "conversation_history": []}')
    with pytest.raises(DataError, match="pass the folder"):
        load(tmp_path / "conversations.jsonl")


def test_transcripts_that_are_set_apart_otherwise_stay_texts() -> None:
    text = "Human: hi\nAssistant: yo"
    preferences = load([ROW | {"prompt": None, "chosen": text, "rejected": text + "!"}])
    assert preferences.conversation(0)[1] == (("assistant", text),)


@pytest.mark.parametrize("kind", [[], {}, 3])
def test_odd_values_in_messages_are_faults_of_their_row(kind: Any) -> None:
    content = [{"type": kind, "text": "x"}]
    with pytest.raises(DataError, match="row 1: `chosen` holds a part"):
        load([ROW | {"chosen": [{"role": "assistant", "content": content}], "rejected": []}])


@pytest.mark.parametrize("timestamp", [10**400, -(10**400), float("inf"), float("nan")])
def test_times_that_are_none_are_not_counted(timestamp: Any) -> None:
    rows = [row | {"timestamp": timestamp} for row in small_rows(2, 12)]
    assert not [issue for issue in check(load(rows)).issues if "quick" in issue.kind]


def test_ids_of_a_thousand_digits_are_refused() -> None:
    with pytest.raises(DataError, match="more than a thousand digits"):
        load([ROW | {"user_id": 10**5_000}])

"""Miniatures of the paper's experiments, from rows of the published schemas."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from conftest import WORDS, HashEncoder
from lore import experiments
from lore.check import check
from lore.embedding import encode
from lore.errors import ConfigError, DataError, MissingExtra, RunError
from lore.experiments import read_protocol
from lore.preferences import Findings, Origin, PreferencesBuilder, text_of
from lore.reproduce import reproduce
from lore.run import Run
from lore.sources import read
from lore.sources.personalllm import MODELS, Scored, scored
from lore.sources.records import read_records
from lore.train import evaluate_step, train

DIM = 8
SMALL = {
    "personalllm": {
        "seen": 24, "unseen": 8, "concentration": 0.1, "train_share": 0.5, "shot_share": 0.2, "test_share": 1.0,
    },
    "prism": {"dialogs": 4, "unseen": 0.25, "test": 0.5, "seed": 123},
    "tldr": {"unseen": 0.5, "train_pairs": 12, "shot_pairs": 6},
}  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer people, ranks and steps; a quick encoder."""

    def read_small(experiment: str, name: str):
        found = read_protocol(experiment, name)
        recipe = None if found.recipe is None else replace(found.recipe, steps=60, few_shot_steps=40)
        return replace(found, ranks=(0, 1, 2), shots=(1, 5), trials=2, sampling=SMALL[experiment], recipe=recipe)

    for module in ("lore.reproduce", "lore.train"):
        monkeypatch.setattr(f"{module}.read_protocol", read_small)
    monkeypatch.setattr("lore.embedding.store.load_encoder", lambda *_: HashEncoder(reference=torch.ones(26)))


def personalllm_rows(prompts: int, first: int) -> list[dict[str, Any]]:
    """Rows of the published columns; each model likes another letter."""
    rows = []
    for number in range(first, first + prompts):
        row: dict[str, Any] = {"prompt": f"Say {number}", "prompt_id": number, "subset": "x"}
        for at in range(1, 9):
            text = " ".join(WORDS[(number * at + step) % 12] for step in range(1 + at % 3)) + f" {number}"
            row[f"response_{at}"] = text
            for place, model in enumerate(MODELS):
                row[f"response_{at}_{model}"] = float(text.count("aeioulnrst"[place])) + 0.01 * at
        rows.append(row)
    return rows


def tensor_of(rows: list[dict[str, Any]]) -> Scored:
    origin = Origin()
    findings = Findings(origin)
    return scored(read_records(rows, origin, findings), findings, "rows")


def written(folder: Path, **files: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


@pytest.fixture
def personalllm(tmp_path: Path) -> Path:
    """With a missing score, a prompt twice, one in both splits, one without any score, and a missing response."""
    train, test = personalllm_rows(24, 0), personalllm_rows(10, 100)
    train[2]["response_3_gemma_7b"] = None
    train[4]["response_5"] = None
    train += [train[0], test[3]]
    unscored = dict(personalllm_rows(1, 200)[0])
    train.append(
        {name: None if name.startswith("response_") and name.count("_") > 1 else v for name, v in unscored.items()}
    )
    return written(tmp_path / "data", train=train, test=test)


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("protocol", ["lore", "original"])
def test_personalllm_is_reproduced_in_the_four_settings(personalllm: Path, tmp_path: Path, protocol: str) -> None:
    outcome = reproduce("personalllm", tmp_path / "run", data=personalllm, protocol=protocol, seed=1)
    report = report_of(tmp_path / "run")
    settings = {(r["model"], r["setting"]) for r in report["results"]}
    assert {("simplex", name) for name in ("seen_train", "seen_test", "unseen_shots", "unseen_test")} <= settings
    assert {"reference", "pooled", "wrong_user", "shuffled"} <= {model for model, _ in settings}
    parts = outcome.split
    # Half of the 24 prompts that are left for 24 seen people, a fifth for 8 unseen ones; ten test prompts for each.
    assert [len(part) for part in parts.parts().values()] == [24 * 12, 240, 8 * 4, 80]
    assert report["config"]["protocol"] == protocol
    assert any("3 rows were left out" in line for line in report["warnings"])
    trained = set(parts.seen_train.group[parts.seen_train.chosen].tolist())
    assert trained.isdisjoint(parts.seen_test.group[parts.seen_test.chosen].tolist())
    again = reproduce("personalllm", tmp_path / "again", data=personalllm, protocol=protocol, seed=1)
    assert report_of(again.folder)["results"] == report["results"]
    assert (tmp_path / "run" / "report.html").exists()
    with pytest.raises(RunError, match="it is repeated whole"):
        evaluate_step(tmp_path / "run")
    assert list(Run.load(tmp_path / "run").users) == [*parts.seen_train.users, *parts.unseen_shots.users]


def test_embeddings_that_were_exported_give_the_same_experiment(personalllm: Path, tmp_path: Path) -> None:
    report = report_of(reproduce("personalllm", tmp_path / "run", data=personalllm, seed=1).folder)
    (tmp_path / "given").mkdir()
    for split in ("train", "test"):
        rows = [json.loads(line) for line in (personalllm / f"{split}.jsonl").read_text().splitlines()]
        conversations = [
            ((("user", row["prompt"]),), (("assistant", row[f"response_{at}"] or ""),))
            for row in rows
            for at in range(1, 9)
        ]
        table = PreferencesBuilder(Origin())
        for (prompt,), (response,) in conversations:
            table.row(prompt[1], response[1])
        encode(table.build(), HashEncoder(reference=torch.ones(26))).export(
            conversations, tmp_path / "given" / f"{split}.safetensors"
        )
    given = reproduce("personalllm", tmp_path / "again", data=personalllm, embeddings=tmp_path / "given", seed=1)
    for ours, theirs in zip(report_of(given.folder)["results"], report["results"], strict=True):
        assert ours == pytest.approx(theirs)


def test_another_concentration_makes_another_population(personalllm: Path, tmp_path: Path) -> None:
    sure, alike = (
        reproduce("personalllm", tmp_path / str(value), data=personalllm, concentration=value, seed=3).split.seen_test
        for value in (0.01, 1e3)
    )
    disagreement = [len(torch.stack([part.chosen, part.rejected]).unique(dim=1).T) for part in (sure, alike)]
    assert disagreement[0] > disagreement[1]  # people of like weights choose the same


def test_nobody_judges_a_prompt_twice_and_everybody_chooses_by_their_weights(personalllm: Path, tmp_path: Path) -> None:
    parts = reproduce("personalllm", tmp_path / "run", data=personalllm, seed=2).split.seen_train
    judged = torch.stack([parts.user, parts.group[parts.chosen]])
    assert len(judged.unique(dim=1).T) == len(parts)
    assert bool((parts.group[parts.chosen] == parts.group[parts.rejected]).all())


def test_embeddings_that_were_made_elsewhere_are_used_row_by_row(personalllm: Path, tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    for split, prompts in (("train", 27), ("test", 10)):
        vectors = torch.randn(prompts * 8, DIM, generator=rng).half()
        tensors = {"embeddings": vectors} | ({"reference": torch.ones(DIM)} if split == "train" else {})
        save_file(tensors, tmp_path / f"{split}.safetensors")
    found = reproduce("personalllm", tmp_path / "run", data=personalllm, embeddings=tmp_path, seed=0)
    assert found.split.seen_train.dim == DIM
    first = torch.nn.functional.normalize(found.split.seen_test.vectors[24 * 8].float(), dim=0)
    from safetensors.torch import load_file

    expected = load_file(tmp_path / "test.safetensors")["embeddings"][0]
    torch.testing.assert_close(first, torch.nn.functional.normalize(expected.float(), dim=0))
    assert report_of(found.folder)["encoder"]["encoder"] == "given files"
    save_file({"embeddings": torch.zeros(8, DIM)}, tmp_path / "test.safetensors")
    with pytest.raises(DataError, match=r"must be \[80, dim\]"):
        reproduce("personalllm", tmp_path / "other", data=personalllm, embeddings=tmp_path)
    for bad, words in (
        ({"embeddings": torch.full((80, DIM), float("nan"))}, "must be finite"),
        ({"embeddings": torch.zeros(80, DIM), "reference": torch.ones(3)}, "must be 8 finite numbers, got 3"),
        ({"embeddings": torch.zeros(80, 3)}, "numbers a row"),
    ):
        save_file(bad, tmp_path / "test.safetensors")
        with pytest.raises(DataError, match=words):
            reproduce("personalllm", tmp_path / "other", data=personalllm, embeddings=tmp_path, force=True)
    (tmp_path / "test.safetensors").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        reproduce("personalllm", tmp_path / "new", data=personalllm, embeddings=tmp_path)
    (tmp_path / "test.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match="cannot be read"):
        reproduce("personalllm", tmp_path / "other", data=personalllm, embeddings=tmp_path, force=True)


def test_the_reward_tensor_is_in_the_documented_order_with_gaps_where_scores_are_missing() -> None:
    rows = personalllm_rows(3, 0)
    rows[1]["response_2_beaver_7b"] = None
    del rows[2]["response_8_gemma_2b"]
    rows[0]["response_4"] = None
    found = tensor_of(rows)
    assert found.scores.shape == (3, 8, 10)
    assert found.scores[0, 2, 9] == rows[0]["response_3_mistral_weqweasdas"]
    gaps = np.argwhere(np.isnan(found.scores))
    assert {tuple(gap[:2]) for gap in gaps} == {(0, 3), (1, 1), (2, 7)}
    assert found.responses[0][3] == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: [], "is empty"),
        (lambda rows: [row | {"prompt": None} for row in rows], "null in `prompt`"),
        (lambda rows: [rows[0] | {"response_2_gemma_7b": "abc"}], "`response_2_gemma_7b` is not a finite number"),
        (lambda rows: [rows[0] | {"response_2_gemma_7b": float("inf")}], "is not a finite number"),
        (lambda rows: [rows[0] | {"response_3": ["x"]}], "`response_3` is a list where a text belongs"),
        (lambda rows: [rows[0] | {"response_3": "\ud800"}], "half a surrogate pair"),
        (lambda rows: [{k: v for k, v in row.items() if "gemma_2b" not in k} for row in rows], "no scores by gemma_2b"),
    ],
)
def test_rows_that_are_not_the_published_ones_are_refused(change, words: str) -> None:
    with pytest.raises(DataError, match=words):
        tensor_of(change(personalllm_rows(2, 0)))


def test_a_folder_without_both_splits_and_broken_lines_are_refused(tmp_path: Path) -> None:
    data = written(tmp_path / "data", train=personalllm_rows(2, 0))
    with pytest.raises(DataError, match=r"needs one file test\.jsonl"):
        reproduce("personalllm", tmp_path / "run", data=data)
    (data / "test.jsonl").write_text("{\n")
    with pytest.raises(DataError, match="line 1: broken JSON"):
        reproduce("personalllm", tmp_path / "run", data=data)
    written(data, test=personalllm_rows(2, 50))
    with pytest.raises(DataError, match="of 2 prompts is none"):
        reproduce("personalllm", tmp_path / "run", data=data)


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
    with pytest.raises(ConfigError, match="simulates its people"):
        reproduce("personalllm", tmp_path / "fourth", split_file=tmp_path / "mine.json")


def test_prism_cannot_be_told_apart_by_form_and_the_originals_rendering_of_it_is_refused(tmp_path: Path) -> None:
    reading = read(written(tmp_path / "data", conversations=prism_lines()))
    assert not check(reading.preferences, reading.findings).fatal
    rendered = []
    for at in range(len(reading.preferences)):
        table = reading.preferences
        sides = [text_of(table.conversation(int(row[at]))[1]) for row in (table.chosen, table.rejected)]
        # The rejected replies were a list, which the chat template printed as one.
        user = table.users[table.user[at]]
        rendered.append({"user_id": user, "prompt": f"Ask {at}", "chosen": sides[0], "rejected": f"{[sides[1]]}"})
    leaking = read(rendered)
    fatal = check(leaking.preferences, leaking.findings).fatal
    assert {found.kind for found in fatal} == {"chosen and rejected can be told apart by form"}
    with pytest.raises(DataError, match="form alone gives the answer away; render both sides alike"):
        train(leaking, tmp_path / "run")


def test_prism_of_too_few_people_and_given_embeddings_are_refused(tmp_path: Path) -> None:
    data = written(tmp_path / "data", conversations=prism_lines(people=2))
    with pytest.raises(DataError, match="people with 4 dialogs or more"):
        reproduce("prism", tmp_path / "run", data=data)
    for option in ({"embeddings": tmp_path}, {"concentration": 1.0}):
        with pytest.raises(ConfigError, match="for personalllm"):
            reproduce("prism", tmp_path / "run", data=data, **option)
    with pytest.raises(ConfigError, match="`concentration` must be a positive number, got 0"):
        reproduce("personalllm", tmp_path / "run", data=data, concentration=0.0)


def tldr_rows(workers: int = 10, posts: int = 30) -> list[dict[str, Any]]:
    """Rows of the published schema; odd workers like long summaries, two workers are in one split only."""
    rows = []
    for worker in range(workers):
        for post in range(posts):
            valid = post >= 20
            if (worker == 0 and valid) or (worker == 1 and not valid):
                continue
            texts = [WORDS[(worker + post) % 12], " ".join(WORDS[(post + step) % 12] for step in range(4))]
            summaries = [{"text": f"{text} {post}", "policy": "sup", "note": "n"} for text in texts]
            info = {"id": f"t3_{post}", "post": f"A post {post}", "title": "T", "subreddit": "r"}
            row = {"info": info, "summaries": summaries, "choice": worker % 2, "worker": f"w{worker}", "batch": "b0"}
            rows.append(row | {"split": "valid1" if valid else "train", "extra": {"confidence": 5}})
    return rows


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
            read_protocol(*names)


def test_tldr_without_its_columns_or_workers_is_refused(tmp_path: Path) -> None:
    rows = tldr_rows()
    for row in rows:
        del row["split"]
    with pytest.raises(DataError, match="no column `split`"):
        reproduce("tldr", tmp_path / "run", data=written(tmp_path / "data", rows=rows) / "rows.jsonl")
    few = [row for row in tldr_rows() if row["worker"] in ("w0", "w1", "w2")]
    with pytest.raises(DataError, match="1 workers are in training and in validation"):
        reproduce("tldr", tmp_path / "other", data=written(tmp_path / "data", rows=few) / "rows.jsonl")


def test_the_published_settings_are_in_the_files() -> None:
    found = {name: read_protocol(name, "original") for name in ("personalllm", "prism", "tldr")}
    assert found["personalllm"].ranks == (0, 1, 2, 3, 4, 5)
    assert found["prism"].ranks == (0, 1, 5, 10, 15, 20, 25, 50)
    assert (found["prism"].recipe.steps, found["prism"].recipe.strength) == (20_000, 1e4)
    assert found["tldr"].shots == tuple(range(5, 51, 5))
    assert found["tldr"].trials == 20
    assert read_protocol("tldr", "lore").recipe is None
    with pytest.raises(ConfigError, match="simulates its people"):
        experiments.experiment_split("personalllm", found["personalllm"], None, None, 0)


def test_without_data_the_published_set_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def offline(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    monkeypatch.setattr(hub, "hf_hub_download", offline)
    for name in ("personalllm", "prism", "tldr"):
        with pytest.raises(DataError, match=r"cannot be downloaded \(offline\); give the data set with --data"):
            reproduce(name, tmp_path / name)
    assert asked == [
        ("namkoong-lab/PersonalLLM",),
        ("HannahRoseKirk/prism-alignment", "conversations.jsonl"),
        ("openai/summarize_from_feedback", "comparisons"),
    ]
    given = {"train": datasets.Dataset.from_list(personalllm_rows(24, 0)), "test": personalllm_rows(10, 100)}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: given)
    assert reproduce("personalllm", tmp_path / "run").split.seen_train.users[0] == "seen-0000"
    rows = tldr_rows()
    halves = {
        "train": datasets.Dataset.from_list([row for row in rows if row["split"] == "train"]),
        "validation": datasets.Dataset.from_list([row for row in rows if row["split"] != "train"]),
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: halves)
    assert len(reproduce("tldr", tmp_path / "tldr").split.seen_test) == 40
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match="datasets"):
        reproduce("personalllm", tmp_path / "none")

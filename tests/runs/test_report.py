import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from builders import HashEncoder, small_rows
from lore.data.formats import load_with_issues
from lore.runs.config import TrainConfig
from lore.runs.rewards import PersonalRewards
from lore.runs.training import train
from runs_builders import CONFIG, rows_of


def test_few_users_are_told_apart_from_no_effect(tmp_path: Path) -> None:
    outcome = train(load_with_issues(small_rows(users=8, prompts=24)), tmp_path / "run", CONFIG)
    assert "cannot be judged for new users, of whom 2 could be tested" in outcome.finding.headline
    assert any("--unseen 0.5" in line for line in outcome.cautions)
    assert "help users it learned from" in outcome.finding.headline
    assert rows_of(outcome.folder)["gain"]["low"] is None


def test_users_with_few_test_pairs_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [row for row in small_rows(users=24, prompts=24) if row["user_id"] != "u3" or row["prompt"] < "Say 14"]
    outcome = train(load_with_issues(rows), tmp_path / "run", CONFIG)
    report = rows_of(outcome.folder)
    assert [group["left_out"] for group in report["finding"]["groups"]] in ([1, 0], [0, 1])
    assert "1 user among the" in (tmp_path / "run" / "report.html").read_text()
    for result in report["results"]:
        assert result["equal"] is not None


def test_every_user_is_in_a_table_without_names_if_so_asked(tmp_path: Path) -> None:
    loaded = load_with_issues(small_rows(users=24, prompts=24))
    train(loaded, tmp_path / "open", CONFIG)
    train(loaded, tmp_path / "redacted", replace(CONFIG, redact=True))
    tables = {}
    for name in ("open", "redacted"):
        with (tmp_path / name / "users.csv").open(encoding="utf-8", newline="") as file:
            tables[name] = list(csv.DictReader(file))
    assert {row["user"] for row in tables["open"]} == {f"u{number}" for number in range(24)}
    assert not {row["user"] for row in tables["redacted"]} & {row["user"] for row in tables["open"]}
    assert [row["gain"] for row in tables["open"]] == [row["gain"] for row in tables["redacted"]]
    for row in tables["open"]:
        assert float(row["gain"]) == pytest.approx(float(row["accuracy"]) - float(row["pooled"]), abs=2e-4)
    page = (tmp_path / "redacted" / "report.html").read_text()
    assert "<td>u3</td>" not in page
    assert "<td>u3</td>" in (tmp_path / "open" / "report.html").read_text()


def test_several_splits_are_averaged_and_the_run_is_that_of_the_first(tmp_path: Path) -> None:
    loaded = load_with_issues(small_rows(users=16, prompts=20))
    one = train(loaded, tmp_path / "one", CONFIG)
    four = train(loaded, tmp_path / "four", replace(CONFIG, splits=4))
    assert four.finding.splits == 4
    assert rows_of(four.folder)["finding"]["splits"] == 4
    assert four.sweep.chosen.objective == pytest.approx(one.sweep.chosen.objective, rel=1e-6)
    assert [group.gain.users for group in four.finding.groups] == [16, 16]  # each was new once
    assert "4 splits" in (tmp_path / "four" / "report.html").read_text()
    assert "one random split" in (tmp_path / "one" / "report.html").read_text()


def test_a_report_says_whether_probabilities_mean_what_they_say(tmp_path: Path) -> None:
    config = replace(CONFIG, family="gaussian")
    train(load_with_issues(small_rows(users=24)), tmp_path / "run", config)
    found = json.loads((tmp_path / "run" / "report.json").read_text())["calibration"]
    assert found.keys() == {"pooled", "gaussian"}
    for model in found.values():
        assert 0 <= model["error"] <= 1
        assert all(one["low"] <= one["observed"] <= one["high"] for one in model["bins"])
    assert "Do probabilities mean what they say?" in (tmp_path / "run" / "report.html").read_text()


def test_people_without_tastes_of_their_own_get_a_report_as_well(tmp_path: Path) -> None:
    rows = [{**row, "user_id": f"p{at % 24}"} for at, row in enumerate(small_rows(users=1, prompts=240))]
    config = TrainConfig(encoder=HashEncoder(), family="gaussian", unseen=0.25)
    found = train(load_with_issues(rows), tmp_path / "run", config)
    assert not found.sweep.has_tastes
    assert found.sweep.chosen is found.sweep.pooled
    assert found.finding.headline.startswith("No tastes found")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    people = report["users"]
    assert people["helps"] == people["hurts"] == 0  # three choices a person tell nothing
    assert report["collapse"]["effective_rank"] >= 0
    assert report["headline"] == found.finding.headline
    assert "No tastes were found" in (tmp_path / "run" / "model" / "README.md").read_text()
    asked = PersonalRewards.load(tmp_path / "run", HashEncoder()).rerank("p3", "Say 3", ["kettle", "apple bread"])
    assert not asked.personalized
    page = (tmp_path / "run" / "report.html").read_text()
    assert "no shared directions of taste" in page
    assert "--redact" not in page

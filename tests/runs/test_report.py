import json
from dataclasses import replace
from pathlib import Path

from builders import HashEncoder, small_rows
from lore.data.formats import load_with_issues
from lore.evaluation.summary import headline
from lore.runs.config import TrainConfig
from lore.runs.training import train
from runs_builders import CONFIG, rows_of


def test_a_gain_that_strangers_weights_give_too_is_not_called_personal(tmp_path: Path) -> None:
    found = train(load_with_issues(small_rows(users=24)), tmp_path / "run", CONFIG).sweep
    assert "helps new users" in headline(found)
    own = next(row for row in found.results if (row.model, row.setting) == ("simplex", "unseen_test"))
    others = [
        replace(row, gain=own.gain, gain_low=own.gain_low, gain_high=own.gain_high)
        if row.model == "wrong_user" and row.setting == "unseen_test"
        else row
        for row in found.results
    ]
    assert "not because it is personal" in headline(replace(found, results=others))


def test_few_people_are_told_apart_from_no_effect(tmp_path: Path) -> None:
    outcome = train(load_with_issues(small_rows(users=6)), tmp_path / "run", CONFIG)
    assert "cannot be told" in outcome.headline
    assert rows_of(outcome.folder)["gain"]["low"] is None


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
    assert found.sweep.chosen.basis.rank == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    people = report["users"]
    assert people["helps"] == people["hurts"] == 0  # three choices a person tell nothing
    assert report["collapse"]["effective_rank"] >= 0
    assert "Personalizing helps" not in report["headline"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "no shared directions of taste" in page
    assert "--redact" not in page

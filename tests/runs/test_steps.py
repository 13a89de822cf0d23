from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from builders import HashEncoder, small_rows
from lore.data.formats import load, load_with_issues
from lore.embedding.store import Embeddings
from lore.errors import ConfigError, DataError, RunError
from lore.fitting.basis import Family
from lore.fitting.personalize import fit_weights
from lore.pairs.table import Pairs
from lore.runs.artifacts import Run
from lore.runs.data import RunData
from lore.runs.rewards import PersonalRewards
from lore.runs.steps import embed_step, evaluate_step, fit_step, personalize_step, sweep_step
from lore.runs.training import train
from runs_builders import CONFIG


def test_a_model_is_replaced_only_by_force_and_its_report_goes_with_it(tmp_path: Path) -> None:
    train(load_with_issues(small_rows(users=24)), tmp_path / "run", CONFIG)
    with pytest.raises(RunError, match="`force`"):
        fit_step(tmp_path / "run", "simplex", 3)
    fit_step(tmp_path / "run", "simplex", 3, force=True)
    assert Run.load(tmp_path / "run").basis.rank == 3
    assert not (tmp_path / "run" / "report.html").exists()


def newer_rows(user: str, count: int = 6) -> list[dict[str, Any]]:
    """Comparisons to prompts that no run has; this user likes short responses."""
    return [
        {
            "user_id": user,
            "prompt": f"Tell {number}",
            "chosen": f"lemon {number}",
            "rejected": f"island kettle {number}",
        }
        for number in range(count)
    ]


@pytest.mark.parametrize("family", ["simplex", "gaussian"])
def test_what_known_users_choose_later_is_added_to_what_the_run_holds(tmp_path: Path, family: Family) -> None:
    rows, run = small_rows(users=24), tmp_path / "run"
    train(load_with_issues(rows), run, replace(CONFIG, family=family))
    for _ in range(2):  # the same file again changes nothing
        assert personalize_step(run, load(newer_rows("u0") + newer_rows("new")), encoder=HashEncoder()) == 2
        loaded = Run.load(run)
        of_u0 = [row for row in rows if row["user_id"] == "u0"]
        for user, told in (("u0", of_u0 + newer_rows("u0")), ("new", newer_rows("new"))):
            alone = load(told)
            embeddings = Embeddings.load(run / "embeddings")
            expected = fit_weights(Pairs.from_embeddings(alone, embeddings), loaded.basis).weights[0]
            torch.testing.assert_close(loaded.weights_of(user), expected, atol=1e-4, rtol=1e-4)
        if family == "gaussian":
            assert PersonalRewards.load(run, HashEncoder()).covariance("new") is not None
            assert PersonalRewards.load(run, HashEncoder()).covariance("u0") is not None


def test_users_who_were_added_stay_when_a_run_is_trained_again_on_more(tmp_path: Path) -> None:
    rows, run = small_rows(users=24), tmp_path / "run"
    train(load_with_issues(rows), run, CONFIG)
    personalize_step(run, load(newer_rows("new")), encoder=HashEncoder())
    train(load_with_issues(small_rows(users=26)), run, CONFIG, force=True)
    assert {"new", "u25"} <= Run.load(run).users.keys()
    assert PersonalRewards.load(run, HashEncoder()).rerank("new", "Tell 3", ["lemon", "island"]).personalized


def test_people_of_whom_nothing_is_told_are_left_as_they_were(tmp_path: Path) -> None:
    train(load_with_issues(small_rows(users=24)), tmp_path / "run", CONFIG)
    before = Run.load(tmp_path / "run")
    nothing = [row | {"weight": 0.0} for row in small_rows(users=2) if row["user_id"] == "u0"]
    nothing.append({"user_id": "new", "prompt": "p", "chosen": "same", "rejected": "same"})
    with pytest.raises(DataError, match="no usable comparison"):
        personalize_step(tmp_path / "run", load(nothing), encoder=HashEncoder())
    told = newer_rows("u1")
    assert personalize_step(tmp_path / "run", load(nothing + told), encoder=HashEncoder()) == 1
    after = Run.load(tmp_path / "run")
    assert "new" not in after.users
    assert torch.equal(after.weights_of("u0"), before.weights_of("u0"))
    assert not torch.equal(after.weights_of("u1"), before.weights_of("u1"))


def test_the_steps_do_what_the_whole_does(tmp_path: Path) -> None:
    preferences = load(small_rows(users=24))
    embed_step(preferences, tmp_path / "run", replace(CONFIG, family="simplex"))
    with pytest.raises(RunError, match="not finished"):
        Run.load(tmp_path / "run")
    fit = fit_step(tmp_path / "run", "simplex", 2)
    assert fit.basis.rank == 2
    found = evaluate_step(tmp_path / "run")
    assert found["seen_train"].mean > 0.9
    pooled = sweep_step(tmp_path / "run", [1])
    assert {result.model for result in pooled.results} >= {"pooled", "wrong_user"}
    assert pooled.finding is None
    three = sweep_step(tmp_path / "run", [2], splits=3).finding
    assert three is not None
    assert three.splits == 3
    newcomers = [row | {"user_id": "new-" + row["user_id"]} for row in small_rows(users=2)]
    assert personalize_step(tmp_path / "run", load(newcomers), encoder=HashEncoder()) == 2
    run = Run.load(tmp_path / "run")
    assert "new-u1" in run.users
    torch.testing.assert_close(run.weights_of("new-u1"), run.weights_of("u1"), atol=1e-2, rtol=0)


def test_a_half_life_counts_once_in_training_and_in_the_steps_after_it(tmp_path: Path) -> None:
    rows = [row | {"timestamp": 86_400 * day} for day, row in enumerate(small_rows(users=24))]
    config = replace(CONFIG, half_life=100.0)
    with mock.patch("lore.runs.training.fit_weights", side_effect=fit_weights) as learned:
        train(load_with_issues(rows), tmp_path / "run", config)
    weight = learned.call_args.args[0].weight
    expected = load(rows).with_time_decay(100.0).weight
    assert weight.tolist() == pytest.approx(expected.tolist())
    assert RunData.load(tmp_path / "run").pairs.weight.tolist() == weight.tolist()


def test_a_refused_fit_leaves_the_report_where_it_is(tmp_path: Path) -> None:
    train(load_with_issues(small_rows(users=24)), tmp_path / "run", CONFIG)
    with pytest.raises(ConfigError, match="rank"):
        fit_step(tmp_path / "run", "simplex", -1, force=True)
    assert (tmp_path / "run" / "report.html").exists()

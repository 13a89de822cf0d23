import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import HashEncoder, small_rows
from lore.embedding import Embeddings
from lore.errors import ConfigError, DataError, MissingExtra, RunError, UnknownUser
from lore.fit import FitConfig
from lore.personalize import fit_weights
from lore.preferences import text_of
from lore.report import finding
from lore.run import Run
from lore.sources import load, read
from lore.train import TrainConfig, embed_step, evaluate_step, fit_step, personalize_step, sweep_step, train

CONFIG = TrainConfig(ranks=(1, 2), unseen=0.25)


@pytest.fixture(autouse=True)
def quick_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("lore.embedding.store", "lore.rewards"):
        monkeypatch.setattr(f"{module}.load_encoder", lambda *_: HashEncoder())


def rows_of(path: Path):
    return json.loads((path / "report.json").read_text())


def test_the_main_job_leaves_all_that_it_promises(tmp_path: Path) -> None:
    outcome = train(read(small_rows(users=24)), tmp_path / "run", CONFIG, title="small")
    names = {entry.name for entry in outcome.folder.iterdir()}
    assert names == {
        "preferences.parquet", "model", "users", "embeddings", "split.json", "report.json", "report.html", "run.json",
    }  # fmt: skip
    report = rows_of(outcome.folder)
    assert {"lore", "data", "encoder", "config", "results", "seconds"} <= report.keys()
    assert report["data"]["users"] == 24
    assert report["finding"] == outcome.finding == finding(outcome.sweep)
    assert "Personalizing helps" in outcome.finding
    for result in report["results"]:
        assert {"model", "rank", "shots", "setting", "accuracy", "low", "high", "users", "pairs"} <= result.keys()


def test_the_report_is_one_file_that_asks_for_nothing_else(tmp_path: Path) -> None:
    folder = train(read(small_rows(users=24)), tmp_path / "run", CONFIG).folder
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 6
    assert "<script" not in page
    for reference in ('src="http', 'href="http', "@import", "url(http"):
        assert reference not in page
    assert "kettle" in page
    secret = train(read(small_rows(users=24)), tmp_path / "redacted", replace(CONFIG, redact=True)).folder
    for name in ("report.html", "report.json"):
        text = (secret / name).read_text()
        assert "kettle" not in text
        assert '"u1"' not in text


def test_weights_in_the_run_are_those_of_all_comparisons_of_each_user(tmp_path: Path) -> None:
    folder = train(read(small_rows(users=24)), tmp_path / "run", CONFIG).folder
    run = Run.load(folder)
    assert list(run.users) == [f"u{user}" for user in range(24)]
    from lore.embedding import Embeddings
    from lore.pairs import Pairs

    pairs = Pairs.from_embeddings(load(folder / "preferences.parquet"), Embeddings.load(folder / "embeddings"))
    torch.testing.assert_close(fit_weights(pairs, run.basis).weights, run.weights, atol=1e-5, rtol=0)
    assert torch.equal(run.weights_of("u3"), run.weights[3])
    with pytest.raises(UnknownUser, match="'nobody'"):
        run.weights_of("nobody")


@pytest.mark.parametrize("phase", ["embedding", "fitting"])
def test_an_interrupted_run_resumes_and_ends_like_an_undisturbed_one(tmp_path: Path, phase: str) -> None:
    reading = read(small_rows(users=24))

    def interrupt(task: str, done: int, total: int, note: str = "") -> None:  # noqa: ARG001 - of the protocol
        if task == phase and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(reading, tmp_path / "run", CONFIG, progress=interrupt)
    with pytest.raises(RunError, match="not finished"):
        Run.load(tmp_path / "run")
    resumed = rows_of(train(reading, tmp_path / "run", CONFIG).folder)
    whole = rows_of(train(reading, tmp_path / "whole", CONFIG).folder)
    assert resumed["results"] == whole["results"]
    assert not list((tmp_path / "run").rglob("*.partial"))


@pytest.mark.parametrize(
    "step", ["check", "Pairs.from_embeddings", "fit_weights", "save_users", "write_report", "finish"]
)
def test_an_interruption_of_any_step_leaves_nothing_half_written_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    reading = read(small_rows(users=24))
    with monkeypatch.context() as patch:
        patch.setattr(f"lore.train.{step}", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(reading, tmp_path / "run", CONFIG)
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(RunError, match=r"not finished|no such"):
        Run.load(tmp_path / "run")
    fits = {file: file.read_bytes() for file in (tmp_path / "run").glob("checkpoints/**/*.safetensors")}
    assert bool(fits) == (step in ("fit_weights", "save_users", "write_report", "finish"))
    resumed = rows_of(train(reading, tmp_path / "run", CONFIG).folder)
    assert resumed["results"] == rows_of(train(reading, tmp_path / "whole", CONFIG).folder)["results"]


def test_a_run_that_was_refused_gives_way_to_its_correction(tmp_path: Path) -> None:
    reading = read(small_rows(users=24))
    with pytest.raises(ConfigError, match="rank"):
        train(reading, tmp_path / "run", replace(CONFIG, ranks=(2, 99)))
    embedded = list((tmp_path / "run" / "embeddings").glob("shard*"))
    assert embedded
    assert train(reading, tmp_path / "run", CONFIG).folder == tmp_path / "run"
    assert list((tmp_path / "run" / "embeddings").glob("shard*")) == embedded


def test_a_model_is_replaced_only_by_force_and_its_report_goes_with_it(tmp_path: Path) -> None:
    train(read(small_rows(users=24)), tmp_path / "run", CONFIG)
    with pytest.raises(RunError, match="--force"):
        fit_step(tmp_path / "run", FitConfig(rank=3))
    fit_step(tmp_path / "run", FitConfig(rank=3), force=True)
    assert Run.load(tmp_path / "run").basis.rank == 3
    assert not (tmp_path / "run" / "report.html").exists()


def test_people_who_are_known_are_learned_anew_only_when_asked_for(tmp_path: Path) -> None:
    train(read(small_rows(users=24)), tmp_path / "run", CONFIG)
    known = load(small_rows(users=1, prompts=2))
    with pytest.raises(RunError, match="'u0'"):
        personalize_step(tmp_path / "run", known)
    before = Run.load(tmp_path / "run").weights_of("u0")
    assert personalize_step(tmp_path / "run", known, replace_known=True) == 1
    assert not torch.equal(Run.load(tmp_path / "run").weights_of("u0"), before)


def test_people_of_whom_nothing_is_told_are_left_as_they_were(tmp_path: Path) -> None:
    train(read(small_rows(users=24)), tmp_path / "run", CONFIG)
    before = Run.load(tmp_path / "run")
    nothing = [row | {"weight": 0.0} for row in small_rows(users=2) if row["user_id"] == "u0"]
    nothing.append({"user_id": "new", "prompt": "p", "chosen": "same", "rejected": "same"})
    with pytest.raises(DataError, match="no comparison tells anything"):
        personalize_step(tmp_path / "run", load(nothing), replace_known=True)
    told = [row for row in small_rows(users=2, prompts=2) if row["user_id"] == "u1"]
    assert personalize_step(tmp_path / "run", load(nothing + told), replace_known=True) == 1
    after = Run.load(tmp_path / "run")
    assert "new" not in after.users
    assert torch.equal(after.weights_of("u0"), before.weights_of("u0"))
    assert not torch.equal(after.weights_of("u1"), before.weights_of("u1"))


def test_a_gain_that_strangers_weights_give_too_is_not_called_personal(tmp_path: Path) -> None:
    found = train(read(small_rows(users=24)), tmp_path / "run", CONFIG).sweep
    assert "helps new people" in finding(found)
    own = next(row for row in found.results if (row.model, row.setting) == ("simplex", "unseen_test"))
    others = [
        replace(row, gain=own.gain, gain_low=own.gain_low, gain_high=own.gain_high)
        if row.model == "wrong_user" and row.setting == "unseen_test"
        else row
        for row in found.results
    ]
    assert "not because it is personal" in finding(replace(found, results=others))


def test_a_run_of_something_else_is_refused_unless_forced_and_embeddings_are_kept(tmp_path: Path) -> None:
    first = read(small_rows(users=24))
    train(first, tmp_path / "run", CONFIG)
    more = read(small_rows(users=25, prompts=13))
    for reading in (first, more):
        with pytest.raises(RunError, match="--force"):
            train(reading, tmp_path / "run", CONFIG)
    before = Embeddings.load(tmp_path / "run" / "embeddings")
    chosen = [tmp_path / "run" / f"feedback.sqlite{end}" for end in ("", "-wal", ".lock")]
    for path in chosen:
        path.write_text("what people told a server")
    train(more, tmp_path / "run", CONFIG, force=True)
    assert {path.read_text() for path in chosen} == {"what people told a server"}
    after = Embeddings.load(tmp_path / "run" / "embeddings")
    assert len(after) == more.preferences.rows > len(before)
    assert torch.equal(after.vectors[after.rows(first.preferences)], before.vectors[before.rows(first.preferences)])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="not a RUN folder"):
        train(first, tmp_path / "mine", CONFIG, force=True)
    with pytest.raises(RunError, match="is a file"):
        train(first, tmp_path / "mine" / "thesis.txt", CONFIG)


def test_the_steps_do_what_the_whole_does(tmp_path: Path) -> None:
    preferences = load(small_rows(users=24))
    embed_step(preferences, tmp_path / "run", CONFIG)
    with pytest.raises(RunError, match="not finished"):
        Run.load(tmp_path / "run")
    fit = fit_step(tmp_path / "run", FitConfig(rank=2))
    assert fit.basis.rank == 2
    found = evaluate_step(tmp_path / "run")
    assert found["seen_train"].mean > 0.9
    assert {result.model for result in sweep_step(tmp_path / "run", [1])} >= {"pooled", "wrong_user"}
    newcomers = [row | {"user_id": "new-" + row["user_id"]} for row in small_rows(users=2)]
    assert personalize_step(tmp_path / "run", load(newcomers)) == 2
    run = Run.load(tmp_path / "run")
    assert "new-u1" in run.users
    torch.testing.assert_close(run.weights_of("new-u1"), run.weights_of("u1"), atol=1e-2, rtol=0)


def test_fewer_pairs_can_be_asked_for(tmp_path: Path) -> None:
    config = replace(CONFIG, train_pairs=3, shots=2)
    parts = train(read(small_rows(users=24)), tmp_path / "run", config).split
    assert int(parts.seen_train.counts.max()) == 3
    assert int(parts.unseen_shots.counts.max()) == 2


def test_data_that_lore_check_refuses_is_not_trained_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="null"):
        train(read([*small_rows(), {"user_id": None, "chosen": "x", "rejected": "y"}]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_report_without_its_packages_is_refused_before_work_begins(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="report"):
        train(read(small_rows()), tmp_path / "run")


def test_damaged_users_are_refused(tmp_path: Path) -> None:
    folder = train(read(small_rows(users=24)), tmp_path / "run", CONFIG).folder
    (folder / "users" / "ids.json").write_text('["only"]')
    with pytest.raises(RunError, match="does not belong"):
        Run.load(folder)
    (folder / "users" / "ids.json").unlink()
    with pytest.raises(RunError, match="missing or damaged"):
        Run.load(folder)


@pytest.mark.parametrize(
    "change", [{"pairs_per_user": 0}, {"ranks": ()}, {"by": "row"}, {"unseen": 1.5}, {"test": 1.0}, {"shots": 0}]
)
def test_bad_arguments_are_refused_by_name(change) -> None:
    with pytest.raises(ConfigError):
        TrainConfig(**change)


def test_few_people_are_told_apart_from_no_effect(tmp_path: Path) -> None:
    outcome = train(read(small_rows(users=6)), tmp_path / "run", CONFIG)
    assert "cannot be told" in outcome.finding
    assert rows_of(outcome.folder)["gain"]["low"] is None


def test_the_demo_is_a_run_like_any_other(tmp_path: Path, monkeypatch) -> None:
    from lore import demo

    quick = replace(demo._DEMO, ranks=(1, 2))
    monkeypatch.setattr(demo, "_DEMO", quick)
    monkeypatch.setattr(demo, "_DEMO_USERS", 24)
    outcome = demo.run_demo(tmp_path / "demo")
    assert len(outcome.split.unseen_shots.users) == 6
    assert int(outcome.split.seen_train.counts.max()) == 30
    texts = [text_of(response) for response in load(tmp_path / "demo" / "preferences.parquet").responses]
    assert len(texts) == len(set(texts))


def test_a_report_says_whether_probabilities_mean_what_they_say(tmp_path: Path) -> None:
    config = replace(CONFIG, family="gaussian")
    train(read(small_rows(users=24)), tmp_path / "run", config)
    found = json.loads((tmp_path / "run" / "report.json").read_text())["calibration"]
    assert found.keys() == {"pooled", "gaussian"}
    for model in found.values():
        assert 0 <= model["error"] <= 1
        assert all(one["low"] <= one["observed"] <= one["high"] for one in model["bins"])
    assert "Do probabilities mean what they say?" in (tmp_path / "run" / "report.html").read_text()


def test_people_without_tastes_of_their_own_get_a_report_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lore.embedding.store.load_encoder", lambda *_: HashEncoder())
    rows = [{**row, "user_id": f"p{at % 24}"} for at, row in enumerate(small_rows(users=1, prompts=240))]
    found = train(read(rows), tmp_path / "run", TrainConfig(family="gaussian", unseen=0.25))
    assert found.sweep.chosen.basis.rank == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    people = report["people"]
    assert people["helps"] == people["hurts"] == 0  # three choices a person tell nothing
    assert report["collapse"]["effective_rank"] >= 0
    assert "Personalizing helps" not in report["finding"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "no shared directions of taste" in page
    assert "--redact" not in page

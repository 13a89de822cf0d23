from dataclasses import replace
from pathlib import Path

import pytest
import torch

from builders import small_rows
from lore.data.formats import load, load_with_issues
from lore.embedding import Embeddings
from lore.errors import ConfigError, DataError, MissingExtra, RunError, UnknownUser
from lore.fitting.personalize import fit_weights
from lore.runs.artifacts import Run
from lore.runs.training import train
from runs_builders import CONFIG, rows_of


def test_the_main_job_leaves_all_that_it_promises(tmp_path: Path) -> None:
    outcome = train(load_with_issues(small_rows(users=40)), tmp_path / "run", CONFIG, title="small")
    names = {entry.name for entry in outcome.folder.iterdir()}
    assert names == {
        "preferences.parquet", "model", "users", "embeddings", "split.json", "report.json", "report.html", "run.json",
        "users.csv",
    }  # fmt: skip
    report = rows_of(outcome.folder)
    assert {"lore", "data", "encoder", "config", "results", "seconds"} <= report.keys()
    assert report["data"]["users"] == 40
    assert report["headline"] == outcome.finding.headline
    assert "Personalizing helps" in outcome.finding.headline
    for result in report["results"]:
        assert {"model", "rank", "shots", "setting", "accuracy", "low", "high", "users", "pairs"} <= result.keys()


def test_the_report_is_one_file_that_asks_for_nothing_else(tmp_path: Path) -> None:
    folder = train(load_with_issues(small_rows(users=24)), tmp_path / "run", CONFIG).folder
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 6
    assert "<script" not in page
    for reference in ('src="http', 'href="http', "@import", "url(http"):
        assert reference not in page
    assert "kettle" in page
    secret = train(load_with_issues(small_rows(users=24)), tmp_path / "redacted", replace(CONFIG, redact=True)).folder
    for name in ("report.html", "report.json"):
        text = (secret / name).read_text()
        assert "kettle" not in text
        assert '"u1"' not in text


def test_weights_in_the_run_are_those_of_all_comparisons_of_each_user(tmp_path: Path) -> None:
    folder = train(load_with_issues(small_rows(users=24)), tmp_path / "run", CONFIG).folder
    run = Run.load(folder)
    assert list(run.users) == [f"u{user}" for user in range(24)]
    from lore.embedding import Embeddings
    from lore.pairs.table import Pairs

    pairs = Pairs.from_embeddings(load(folder / "preferences.parquet"), Embeddings.load(folder / "embeddings"))
    torch.testing.assert_close(fit_weights(pairs, run.basis).weights, run.weights, atol=1e-5, rtol=0)
    assert torch.equal(run.weights_of("u3"), run.weights[3])
    with pytest.raises(UnknownUser, match="'nobody'"):
        run.weights_of("nobody")


@pytest.mark.parametrize("phase", ["embedding", "fitting"])
def test_an_interrupted_run_resumes_and_ends_like_an_undisturbed_one(tmp_path: Path, phase: str) -> None:
    reading = load_with_issues(small_rows(users=24))

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
    "step", ["check", "Pairs.from_embeddings", "fit_weights", "save_users", "report_html", "finish"]
)
def test_an_interruption_of_any_step_leaves_nothing_half_written_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    reading = load_with_issues(small_rows(users=24))
    with monkeypatch.context() as patch:
        patch.setattr(f"lore.runs.training.{step}", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(reading, tmp_path / "run", CONFIG)
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(RunError, match=r"not finished|no such"):
        Run.load(tmp_path / "run")
    fits = {file: file.read_bytes() for file in (tmp_path / "run").glob("checkpoints/**/*.safetensors")}
    assert bool(fits) == (step in ("fit_weights", "save_users", "report_html", "finish"))
    resumed = rows_of(train(reading, tmp_path / "run", CONFIG).folder)
    assert resumed["results"] == rows_of(train(reading, tmp_path / "whole", CONFIG).folder)["results"]


def test_a_run_that_was_refused_gives_way_to_its_correction(tmp_path: Path) -> None:
    reading = load_with_issues(small_rows(users=24))
    with pytest.raises(ConfigError, match="rank"):
        train(reading, tmp_path / "run", replace(CONFIG, ranks=(2, 99)))

    def embedded() -> list[str]:
        return [shard.name for shard in (tmp_path / "run" / "embeddings").rglob("shard*")]

    before = embedded()
    assert before
    assert train(reading, tmp_path / "run", CONFIG).folder == tmp_path / "run"
    assert embedded() == before


def test_a_run_of_something_else_is_refused_unless_forced_and_embeddings_are_kept(tmp_path: Path) -> None:
    first = load_with_issues(small_rows(users=24))
    train(first, tmp_path / "run", CONFIG)
    more = load_with_issues(small_rows(users=25, prompts=13))
    for reading in (first, more):
        with pytest.raises(RunError, match="`force`"):
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


def test_fewer_pairs_can_be_asked_for(tmp_path: Path) -> None:
    config = replace(CONFIG, train_pairs=3, shots=2)
    parts = train(load_with_issues(small_rows(users=24)), tmp_path / "run", config).split
    assert int(parts.seen_train.counts.max()) == 3
    assert int(parts.unseen_shots.counts.max()) == 2


def test_data_that_lore_check_refuses_is_not_trained_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="null"):
        train(load_with_issues([*small_rows(), {"user_id": None, "chosen": "x", "rejected": "y"}]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_report_without_its_packages_is_refused_before_work_begins(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="report"):
        train(load_with_issues(small_rows()), tmp_path / "run")

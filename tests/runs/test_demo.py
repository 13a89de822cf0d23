from dataclasses import replace
from pathlib import Path

from lore.data.formats import load
from lore.data.messages import text_of


def test_the_demo_is_a_run_like_any_other(tmp_path: Path, monkeypatch) -> None:
    from lore.runs import demo

    quick = replace(demo._DEMO, ranks=(1, 2))
    monkeypatch.setattr(demo, "_DEMO", quick)
    monkeypatch.setattr(demo, "_DEMO_USERS", 24)
    outcome = demo.run_demo(tmp_path / "demo")
    assert len(outcome.split.unseen_shots.users) == 6
    assert int(outcome.split.seen_train.counts.max()) == 30
    texts = [text_of(response) for response in load(tmp_path / "demo" / "preferences.parquet").responses]
    assert len(texts) == len(set(texts))

import errno
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from builders import HashEncoder, Write, small_rows
from cli_builders import ROW, SMALL, Command
from lore import cli
from lore.cli.application import with_options_named
from lore.embedding.precomputed import read_vectors
from lore.errors import ConfigError, EncoderError
from lore.serve.admin import create_token


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from lore.data.formats import load_with_issues
    from lore.runs.config import TrainConfig
    from lore.runs.training import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lore.embedding.store.load_encoder", lambda *_: HashEncoder())
        folder = tmp_path_factory.mktemp("cli") / "run"
        yield train(load_with_issues(small_rows(users=24)), folder, TrainConfig(ranks=(1, 2), unseen=0.25)).folder


BAD_LINES = {
    "broken JSON on line 7": ([ROW] * 6 + ["{"], "line 7"),
    "a list instead of an object": ([ROW, "[]"], "line 2"),
    "empty file": ([""], "empty"),
    "wrong columns": ([{"text": "x"}], "columns"),
    "missing field": ([ROW, {"user_id": "a", "chosen": "x"}], "line 2: missing field `rejected`"),
    "null user": ([ROW, ROW | {"user_id": None}], "line 2: null in `user_id`"),
    "blank user": ([ROW | {"user_id": " "}], "line 1: empty `user_id`"),
    "user of another type": ([ROW | {"user_id": [1]}], "`user_id` is a list"),
    "null chosen": ([ROW | {"chosen": None}], "null in `chosen`"),
    "number as text": ([ROW | {"rejected": 7}], "is a number"),
    "list as text": ([ROW | {"rejected": ["bad"]}], "of different types"),
    "unknown role": ([ROW | {"prompt": [{"role": "gpt", "content": "x"}]}], "role 'gpt'"),
    "turn without content": ([ROW | {"prompt": [{"role": "user"}]}], "chat messages"),
    "empty turns": ([ROW | {"chosen": [], "rejected": []}], "empty list"),
    "a 3 MB text": ([ROW | {"chosen": "x" * 3_000_000}], "longer than"),
    "control characters": ([ROW | {"chosen": "\x07bell"}], "control characters"),
    "half a surrogate pair": ([ROW | {"chosen": "\ud83d"}], "surrogate"),
    "negative weight": ([ROW | {"weight": -1}], "`weight`"),
    "infinite weight": ([ROW | {"weight": 1e999}], "`weight`"),
    "label above one": ([ROW | {"label": 1.5}], "`label`"),
    "NaN rating": ([{"user_id": "a", "response": "x", "rating": float("nan")}], "`rating`"),
    "one id, two contents": (
        [ROW | {"comparison_id": "c"}, ROW | {"comparison_id": "c", "chosen": "x"}],
        "line 2: `comparison_id`",
    ),
    "one user only": (small_rows(users=1), "too few users"),
    "one prompt only": ([ROW, ROW | {"user_id": "b"}], "two"),
    "no user with two comparisons": ([ROW | {"user_id": f"u{at}", "prompt": f"p{at}"} for at in range(2)], "pair"),
    "told apart by form": (
        [ROW | {"prompt": f"{at}", "chosen": f"{chr(97 + at)} {at}", "rejected": f"['{at} x']"} for at in range(26)],
        "form",
    ),
}


@pytest.mark.parametrize("fault", BAD_LINES)
def test_bad_data_is_refused_in_one_line_before_anything_is_written(
    lore: Command, jsonl: Write, tmp_path: Path, fault: str
) -> None:
    lines, words = BAD_LINES[fault]
    code, _, err = lore("train", jsonl(lines), "--out", tmp_path / "run", *SMALL)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("lore: ")
    assert words in err
    assert not list(tmp_path.rglob("*.partial"))
    assert not (tmp_path / "run" / "model").exists()


BAD_ARGUMENTS = {
    "no command": ([], "give a command"),
    "unknown command": (["fly"], "fly"),
    "unknown option": (["check", "{data}", "--speed"], "--speed"),
    "missing argument": (["train", "{data}"], "--out"),
    "missing file": (["check", "{folder}/none.jsonl"], "no such file"),
    "unknown kind of file": (["check", "{folder}/notes.txt"], "unknown kind"),
    "missing column": (["check", "{data}", "--user-column", "worker"], "worker"),
    "unknown format": (["check", "{data}", "--format", "xml"], "format"),
    "ranks that are no numbers": (["train", "{data}", "--out", "{folder}/run", "--ranks", "a,b"], "--ranks"),
    "no personal model": (["train", "{data}", "--out", "{folder}/run", "--ranks", "0,1"], "personal model"),
    "negative seed": (["train", "{data}", "--out", "{folder}/run", "--seed", "-1"], "--seed"),
    "huge seed": (["fit", "{embedded}", "--seed", "99999999999999999999999"], "--seed"),
    "a RUN folder that cannot be made": (["train", "{data}", "--out", "/proc/none/run"], "another place"),
    "scores into a folder": (["score", "{finished}", "{rows}", "--out", "{folder}"], "Is a directory"),
    "data that is a device": (["check", "/dev/null"], "neither a file nor a folder"),
    "a request that is a folder": (["rerank", "{finished}", "--user", "a", "{folder}"], "Is a directory"),
    "a model that is there already": (["fit", "{finished}"], "--force"),
    "negative rank": (["train", "{data}", "--out", "{folder}/run", "--ranks", "-1"], "ranks"),
    "rank above dim": (["train", "{data}", "--out", "{folder}/run", "--ranks", "99"], "at most"),
    "unseen above one": (["train", "{data}", "--out", "{folder}/run", "--unseen", "2"], "unseen"),
    "no test": (["train", "{data}", "--out", "{folder}/run", "--test", "0"], "test"),
    "no pairs per user": (["train", "{data}", "--out", "{folder}/run", "--pairs-per-user", "0"], "--pairs-per-user"),
    "a RUN folder that is a file": (["train", "{data}", "--out", "{folder}/notes.txt"], "is a file"),
    "a RUN folder that exists": (["train", "{data}", "--out", "{folder}"], "exists already"),
    "a RUN folder below a file": (["train", "{data}", "--out", "{folder}/notes.txt/run"], "Not a directory"),
    "rank 0 without a reference": (["fit", "{embedded}", "--rank", "0"], "reference"),
    "a negative rank to fit": (["fit", "{embedded}", "--rank", "-2"], "rank"),
    "no run": (["evaluate", "{folder}"], "lore train"),
    "an unfinished run": (["evaluate", "{embedded}"], "not finished"),
    "a request that is no JSON": (["rerank", "{finished}", "--user", "a", "{folder}/notes.txt"], "JSON"),
    "a request without candidates": (["rerank", "{finished}", "--user", "a", "{folder}/request.json"], "candidates"),
    "a request that is missing": (["rerank", "{finished}", "--user", "a", "{folder}/none.json"], "No such file"),
}


@pytest.mark.parametrize("fault", BAD_ARGUMENTS)
def test_bad_arguments_are_refused_in_one_line(
    lore: Command, jsonl: Write, tmp_path: Path, finished: Path, fault: str
) -> None:
    arguments, words = BAD_ARGUMENTS[fault]
    (tmp_path / "notes.txt").write_text("not JSON")
    (tmp_path / "request.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text('{"user_id": "u0", "prompt": "Hi", "response": "x"}')
    places = {
        "rows": tmp_path / "rows.jsonl",
        "data": jsonl(small_rows()),
        "folder": tmp_path,
        "finished": finished,
        "embedded": tmp_path / "embedded",
    }
    if "{embedded}" in arguments:
        assert lore("embed", places["data"], "--out", places["embedded"])[0] == 0
    code, _, err = lore(*(argument.format(**places) for argument in arguments))
    assert code == 2
    assert err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize("name", ["users/weights.safetensors", "model/model.safetensors"])
def test_a_truncated_file_is_named(lore: Command, finished: Path, tmp_path: Path, name: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(finished, broken)
    (broken / name).write_bytes((broken / name).read_bytes()[:20])
    (tmp_path / "request.json").write_text('{"candidates": ["x"]}')
    code, _, err = lore("rerank", broken, "--user", "u0", tmp_path / "request.json")
    assert code == 2
    assert err.count("\n") == 1
    assert "damaged" in err


def test_a_store_of_another_encoder_is_refused(lore: Command, jsonl: Write, tmp_path: Path, monkeypatch) -> None:
    data = jsonl(small_rows())
    assert lore("embed", data, "--out", tmp_path / "run", "--unseen", "0.25")[0] == 0
    monkeypatch.setattr("lore.embedding.store.load_encoder", lambda *_: HashEncoder("another"))
    code, _, err = lore("embed", data, "--out", tmp_path / "run", "--unseen", "0.25")
    assert code == 2
    assert "another encoder" in err


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_is_said_and_the_run_resumes(
    lore: Command, jsonl: Write, tmp_path: Path, monkeypatch, code: int
) -> None:
    data, run = jsonl(small_rows(users=24)), tmp_path / "run"

    def full(*_: object) -> None:
        raise OSError(code, "no room", str(run))

    with monkeypatch.context() as patch:
        patch.setattr("lore.embedding.shards.save_file", full)
        found, _, err = lore("train", data, "--out", run, *SMALL)
    assert found == 2
    assert err.count("\n") == 1
    assert "no room" in err
    assert not list(run.rglob("*.partial"))
    assert lore("train", data, "--out", run, *SMALL)[0] == 0


def test_an_interruption_ends_with_130_and_a_fault_of_ours_is_not_hidden(
    lore: Command, jsonl: Write, tmp_path: Path, monkeypatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    data = jsonl(small_rows())
    with monkeypatch.context() as patch:
        patch.setattr("lore.runs.training.train", interrupt)
        code, _, err = lore("train", data, "--out", tmp_path / "run")
    assert code == 130
    assert "interrupted" in err

    def bug(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "strange")

    monkeypatch.setattr("lore.runs.training.train", bug)
    with pytest.raises(OSError, match="strange"):
        cli.main(["train", str(data), "--out", str(tmp_path / "run")])


def test_fields_of_files_are_not_taken_for_options(lore: Command, tmp_path: Path) -> None:
    save_file({"foo": torch.ones(1, 1)}, tmp_path / "y.safetensors")
    with pytest.raises(EncoderError, match="has no key 'embeddings', only foo") as error:
        read_vectors(tmp_path / "y.safetensors")
    assert with_options_named(str(error.value)) == str(error.value)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text('{"lore": "0", "config": {}, "finished": true}')
    _, _, err = lore("evaluate", tmp_path / "old")
    assert "has no field 'data'" in err


def test_issues_and_refusals_name_options(lore: Command, jsonl: Write, tmp_path: Path) -> None:
    _, out, err = lore("check", jsonl(small_rows(users=1)))
    assert "--unseen 0" in out + err
    assert not re.search(r"`(?!lore )\w", err + "".join(line for line in out.splitlines() if "fatal" in line))
    _, _, err = lore("train", jsonl(small_rows()), "--out", tmp_path / "run", "--encoding", "batch_tokens=many")
    assert "--encoding batch_tokens=..." in err
    with pytest.raises(ConfigError, match="got ''") as error:
        create_token(str(tmp_path / "tokens.sqlite"), "team", ["read", "", "erase"], None)
    assert with_options_named(str(error.value)).startswith("--scopes must be of")

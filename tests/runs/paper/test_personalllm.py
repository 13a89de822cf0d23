import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from builders import HashEncoder
from lore.data.builder import PreferencesBuilder
from lore.data.formats.personalllm import Scored, scored
from lore.data.formats.readers import read_records
from lore.data.issues import IssueLog, SourceLocations
from lore.embedding import encode
from lore.errors import DataError, RunError
from lore.runs.artifacts import Run
from lore.runs.paper.reproduce import reproduce
from lore.runs.steps import evaluate_step
from runs_paper_builders import personalllm_rows, report_of, written

DIM = 8


def tensor_of(rows: list[dict[str, Any]]) -> Scored:
    origin = SourceLocations()
    findings = IssueLog(origin)
    return scored(read_records(rows, origin, findings), findings, "rows")


@pytest.mark.parametrize("protocol", ["lore", "original"])
def test_personalllm_is_reproduced_in_the_four_settings(personalllm: Path, tmp_path: Path, protocol: str) -> None:
    outcome = reproduce("personalllm", tmp_path / "run", data=personalllm, protocol=protocol, seed=1)
    report = report_of(tmp_path / "run")
    settings = {(r["model"], r["setting"]) for r in report["results"]}
    assert {("simplex", name) for name in ("seen_train", "seen_test", "unseen_shots", "unseen_test")} <= settings
    assert {"reference", "pooled", "wrong_user", "shuffled"} <= {model for model, _ in settings}
    parts = outcome.split
    # Half of the 24 prompts that are left for 24 seen people, a fifth for 8 unseen ones; ten test prompts for each.
    assert [len(part) for part in parts.parts().values()] == [24 * 12, 240, 8 * 4, 80]
    assert report["config"]["protocol"] == protocol
    assert any("3 rows were left out" in line for line in report["warnings"])
    trained = set(parts.seen_train.group[parts.seen_train.chosen].tolist())
    assert trained.isdisjoint(parts.seen_test.group[parts.seen_test.chosen].tolist())
    again = reproduce("personalllm", tmp_path / "again", data=personalllm, protocol=protocol, seed=1)
    assert report_of(again.folder)["results"] == report["results"]
    assert (tmp_path / "run" / "report.html").exists()
    with pytest.raises(RunError, match="repeat it whole"):
        evaluate_step(tmp_path / "run")
    assert list(Run.load(tmp_path / "run").users) == [*parts.seen_train.users, *parts.unseen_shots.users]


def test_embeddings_that_were_exported_give_the_same_experiment(personalllm: Path, tmp_path: Path) -> None:
    report = report_of(reproduce("personalllm", tmp_path / "run", data=personalllm, seed=1).folder)
    (tmp_path / "given").mkdir()
    for split in ("train", "test"):
        rows = [json.loads(line) for line in (personalllm / f"{split}.jsonl").read_text().splitlines()]
        conversations = [
            ((("user", row["prompt"]),), (("assistant", row[f"response_{at}"] or ""),))
            for row in rows
            for at in range(1, 9)
        ]
        table = PreferencesBuilder(SourceLocations())
        for (prompt,), (response,) in conversations:
            table.row(prompt[1], response[1])
        encode(table.build(), HashEncoder(reference=torch.ones(26))).export(
            conversations, tmp_path / "given" / f"{split}.safetensors"
        )
    given = reproduce("personalllm", tmp_path / "again", data=personalllm, embeddings=tmp_path / "given", seed=1)
    for ours, theirs in zip(report_of(given.folder)["results"], report["results"], strict=True):
        assert ours == pytest.approx(theirs)


def test_another_concentration_makes_another_population(personalllm: Path, tmp_path: Path) -> None:
    sure, alike = (
        reproduce("personalllm", tmp_path / str(value), data=personalllm, concentration=value, seed=3).split.seen_test
        for value in (0.01, 1e3)
    )
    disagreement = [len(torch.stack([part.chosen, part.rejected]).unique(dim=1).T) for part in (sure, alike)]
    assert disagreement[0] > disagreement[1]  # people of like weights choose the same


def test_nobody_judges_a_prompt_twice_and_everybody_chooses_by_their_weights(personalllm: Path, tmp_path: Path) -> None:
    parts = reproduce("personalllm", tmp_path / "run", data=personalllm, seed=2).split.seen_train
    judged = torch.stack([parts.user, parts.group[parts.chosen]])
    assert len(judged.unique(dim=1).T) == len(parts)
    assert bool((parts.group[parts.chosen] == parts.group[parts.rejected]).all())


def test_embeddings_that_were_made_elsewhere_are_used_row_by_row(personalllm: Path, tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    for split, prompts in (("train", 27), ("test", 10)):
        vectors = torch.randn(prompts * 8, DIM, generator=rng).half()
        tensors = {"embeddings": vectors} | ({"reference": torch.ones(DIM)} if split == "train" else {})
        save_file(tensors, tmp_path / f"{split}.safetensors")
    found = reproduce("personalllm", tmp_path / "run", data=personalllm, embeddings=tmp_path, seed=0)
    assert found.split.seen_train.dim == DIM
    first = torch.nn.functional.normalize(found.split.seen_test.vectors[24 * 8].float(), dim=0)
    from safetensors.torch import load_file

    expected = load_file(tmp_path / "test.safetensors")["embeddings"][0]
    torch.testing.assert_close(first, torch.nn.functional.normalize(expected.float(), dim=0))
    assert report_of(found.folder)["encoder"]["encoder"] == "given files"
    save_file({"embeddings": torch.zeros(8, DIM)}, tmp_path / "test.safetensors")
    with pytest.raises(DataError, match=r"must be \[80, dim\]"):
        reproduce("personalllm", tmp_path / "other", data=personalllm, embeddings=tmp_path)
    for bad, words in (
        ({"embeddings": torch.full((80, DIM), float("nan"))}, "must be finite"),
        ({"embeddings": torch.zeros(80, DIM), "reference": torch.ones(3)}, "must be 8 finite numbers, got 3"),
        ({"embeddings": torch.zeros(80, 3)}, "numbers a row"),
    ):
        save_file(bad, tmp_path / "test.safetensors")
        with pytest.raises(DataError, match=words):
            reproduce("personalllm", tmp_path / "other", data=personalllm, embeddings=tmp_path, force=True)
    (tmp_path / "test.safetensors").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        reproduce("personalllm", tmp_path / "new", data=personalllm, embeddings=tmp_path)
    (tmp_path / "test.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match="cannot be read"):
        reproduce("personalllm", tmp_path / "other", data=personalllm, embeddings=tmp_path, force=True)


def test_the_reward_tensor_is_in_the_documented_order_with_gaps_where_scores_are_missing() -> None:
    rows = personalllm_rows(3, 0)
    rows[1]["response_2_beaver_7b"] = None
    del rows[2]["response_8_gemma_2b"]
    rows[0]["response_4"] = None
    found = tensor_of(rows)
    assert found.scores.shape == (3, 8, 10)
    assert found.scores[0, 2, 9] == rows[0]["response_3_mistral_weqweasdas"]
    gaps = np.argwhere(np.isnan(found.scores))
    assert {tuple(gap[:2]) for gap in gaps} == {(0, 3), (1, 1), (2, 7)}
    assert found.responses[0][3] == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: [], "is empty"),
        (lambda rows: [row | {"prompt": None} for row in rows], "null in `prompt`"),
        (lambda rows: [rows[0] | {"response_2_gemma_7b": "abc"}], "`response_2_gemma_7b` is not a finite number"),
        (lambda rows: [rows[0] | {"response_2_gemma_7b": float("inf")}], "is not a finite number"),
        (lambda rows: [rows[0] | {"response_3": ["x"]}], "`response_3` is a list where a text belongs"),
        (lambda rows: [rows[0] | {"response_3": "\ud800"}], "half a surrogate pair"),
        (lambda rows: [{k: v for k, v in row.items() if "gemma_2b" not in k} for row in rows], "no scores by gemma_2b"),
    ],
)
def test_rows_that_are_not_the_published_ones_are_refused(change, words: str) -> None:
    with pytest.raises(DataError, match=words):
        tensor_of(change(personalllm_rows(2, 0)))


def test_a_folder_without_both_splits_and_broken_lines_are_refused(tmp_path: Path) -> None:
    data = written(tmp_path / "data", train=personalllm_rows(2, 0))
    with pytest.raises(DataError, match=r"needs one file test\.jsonl"):
        reproduce("personalllm", tmp_path / "run", data=data)
    (data / "test.jsonl").write_text("{\n")
    with pytest.raises(DataError, match="line 1: broken JSON"):
        reproduce("personalllm", tmp_path / "run", data=data)
    written(data, test=personalllm_rows(2, 50))
    with pytest.raises(DataError, match="of 2 prompts is none"):
        reproduce("personalllm", tmp_path / "run", data=data)

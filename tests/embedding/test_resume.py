import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from builders import HashEncoder, small_rows
from lore.data.formats import load
from lore.embedding import Embeddings, encode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Embeddings:
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run([sys.executable, Path(__file__).parents[1] / "crash_child.py", folder, "0"], check=True)
    return Embeddings.load(folder)


# Two syncs make a file safe: its own, and its folder's. The store writes its manifest, a shard, the manifest, ... and
# in the end one merged shard and the manifest.
@pytest.mark.parametrize("moment", [2, 3, 6, 9, 12])
def test_a_run_that_is_killed_resumes_to_the_same_bits(
    tmp_path: Path, undisturbed: Embeddings, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    script = [sys.executable, Path(__file__).parents[1] / "crash_child.py", tmp_path]
    died = subprocess.run([*script, str(moment)], check=False)
    assert died.returncode == -signal.SIGKILL
    monkeypatch.setattr("lore.embedding.store._SHARD", 16)
    table, encoder = load(small_rows(users=3, prompts=40)), HashEncoder()
    there = 0
    if (tmp_path / "manifest.json").exists():
        there = len(Embeddings.load(tmp_path, verify=True))
        assert there % 16 == 0 or there == table.rows  # whole shards
    resumed = encode(table, encoder, tmp_path)
    assert encoder.encoded == table.rows - there
    assert torch.equal(resumed.vectors, undisturbed.vectors)
    assert (resumed.keys == undisturbed.keys).all()
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.skipif("LORE_RAY" not in os.environ, reason="LORE_RAY is not set: it starts a local cluster on loopback")
def test_the_recipe_with_ray_fills_the_same_store(tmp_path: Path, language_model: Path) -> None:
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, small_rows(users=3, prompts=300))))
    recipe = Path(__file__).parents[2] / "examples" / "embed_with_ray.py"
    command = [sys.executable, recipe, tmp_path / "data.jsonl", tmp_path / "store", language_model, "2"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    table = load(tmp_path / "data.jsonl")
    assert int(done.stdout.split()[-1]) == table.rows
    found, alone = Embeddings.load(tmp_path / "store", verify=True), encode(table, str(language_model))
    assert len(found) == table.rows
    torch.testing.assert_close(found.vectors[found.rows(table)], alone.vectors[alone.rows(table)], atol=1e-4, rtol=1e-4)


def test_processes_of_torchrun_fill_one_store(tmp_path: Path, language_model: Path) -> None:
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, small_rows(users=3, prompts=300))))
    command = [sys.executable, "-m", "lore.cli", "embed", tmp_path / "data.jsonl", "--out", tmp_path / "run"]
    command += ["--encoder", language_model]
    processes = [
        subprocess.Popen(command, env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}, stdout=subprocess.DEVNULL)
        for rank in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    table = load(tmp_path / "data.jsonl")
    found, alone = Embeddings.load(tmp_path / "run" / "embeddings"), encode(table, str(language_model))
    assert len(found) == table.rows
    torch.testing.assert_close(found.vectors[found.rows(table)], alone.vectors[alone.rows(table)], atol=1e-4, rtol=1e-4)
    assert len(list((tmp_path / "run" / "embeddings").glob("shard-*"))) == 1

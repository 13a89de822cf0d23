import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from builders import small_rows
from lore.data.formats import load
from lore.data.preferences import Preferences
from lore.embedding import encode, load_encoder
from lore.embedding.precomputed import read_vectors
from lore.errors import EncoderError
from lore.runs.steps import conversation_lines


def written_vectors(path: Path, vectors: torch.Tensor, preferences: Preferences) -> Path:
    rows = [preferences.conversation(row) for row in range(preferences.rows)]
    if path.suffix == ".npy":
        np.save(path, vectors.numpy())
    elif path.suffix == ".safetensors":
        save_file({"embeddings": vectors, "reference": torch.ones(vectors.shape[1])}, path)
    else:
        order = list(range(len(rows)))[::-1] if path.stem == "by_text" else range(len(rows))
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors[list(order)].flatten().numpy()), vectors.shape[1])
        columns: dict[str, Any] = {"embedding": lists}
        if path.stem == "by_text":
            columns |= {"prompt": [rows[at][0][0][1] for at in order], "response": [rows[at][1][0][1] for at in order]}
        pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("name", ["given.npy", "given.safetensors", "given.parquet", "by_text.parquet"])
def test_vectors_made_elsewhere_go_through_the_same_door(preferences: Preferences, tmp_path: Path, name: str) -> None:
    vectors = torch.randn(preferences.rows, 5, generator=torch.Generator().manual_seed(0))
    path = written_vectors(tmp_path / name, vectors, preferences)
    found = encode(preferences, str(path), tmp_path / "store")
    torch.testing.assert_close(found.vectors[found.rows(preferences)], vectors)
    assert (found.reference is not None) == name.endswith("safetensors")
    with pytest.raises(EncoderError, match="new texts cannot be encoded"):
        load_encoder(str(path))
    more = load(small_rows(users=3, prompts=8))
    with pytest.raises(EncoderError, match=r"has \d+ rows, and the data|has no embedding for"):
        encode(more, str(path))


def test_files_that_hold_no_vectors_are_refused(preferences: Preferences, tmp_path: Path) -> None:
    bad: dict[str, Callable[[Path], Any]] = {
        "broken.npy": lambda path: path.write_bytes(b"not an array"),
        "flat.npy": lambda path: np.save(path, np.ones(preferences.rows)),
        "nan.npy": lambda path: np.save(path, np.full((preferences.rows, 2), np.nan)),
        "other.safetensors": lambda path: save_file({"vectors": torch.ones(2, 2)}, path),
        "head.safetensors": lambda path: save_file(
            {"embeddings": torch.ones(preferences.rows, 2), "reference": torch.ones(3)}, path
        ),
        "none.parquet": lambda path: pq.write_table(pa.table({"vector": [[1.0]]}), path),
        "ragged.parquet": lambda path: pq.write_table(pa.table({"embedding": [[1.0], [1.0, 2.0]]}), path),
    }
    said = "cannot be read|must be floating point|must be finite|has no key|must be 2 numbers|has no column|one length"
    for name, write in bad.items():
        write(tmp_path / name)
        with pytest.raises(EncoderError, match=said):
            load_encoder(str(tmp_path / name), None, preferences)


def test_an_empty_file_and_a_column_of_numbers_are_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "empty.npy").touch()
    pq.write_table(pa.table({"embedding": [1.0, 2.0]}), tmp_path / "numbers.parquet")
    for name in ("empty.npy", "numbers.parquet"):
        with pytest.raises(EncoderError, match=name):
            read_vectors(tmp_path / name)


def test_a_list_of_conversations_comes_back_as_a_table_with_vectors(tmp_path: Path) -> None:
    preferences = load(small_rows(users=2, prompts=2))
    rows = [json.loads(line) for line in conversation_lines(preferences).splitlines()]
    vectors = torch.arange(2.0 * len(rows)).view(-1, 2)
    table = pa.table({name: [row[name] for row in rows] for name in ("prompt", "response")})
    pq.write_table(table.append_column("embedding", pa.array(vectors.tolist())), tmp_path / "vectors.parquet")
    store = encode(preferences, encoder=str(tmp_path / "vectors.parquet"), store=tmp_path / "store")
    torch.testing.assert_close(store.vectors[store.rows(preferences)], vectors)

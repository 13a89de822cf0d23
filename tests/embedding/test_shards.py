from pathlib import Path

import numpy as np
import pytest
import torch

from builders import HashEncoder
from lore.data.messages import conversation_key
from lore.data.preferences import Preferences
from lore.embedding import Embeddings, encode
from lore.errors import StoreError


def test_damage_is_found_and_named(preferences: Preferences, letters: HashEncoder, tmp_path: Path) -> None:
    encode(preferences, letters, tmp_path)
    shard = next(tmp_path.glob("shard-*"))
    whole = shard.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[: len(whole) // 2]):
        shard.write_bytes(damaged)
        with pytest.raises(StoreError, match=rf"{shard.name}.*checksum"):
            Embeddings.load(tmp_path)
    shard.unlink()
    with pytest.raises(StoreError, match="missing"):
        Embeddings.load(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(StoreError, match="format 2"):
        Embeddings.load(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(StoreError, match="no readable store"):
        Embeddings.load(tmp_path)


def test_damage_in_a_large_shard_is_found_when_it_is_verified_and_when_more_is_embedded(
    preferences: Preferences, letters: HashEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lore.embedding.shards._CHECKED", 0)
    encode(preferences, letters, tmp_path)
    shard = next(tmp_path.glob("shard-*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert len(Embeddings.load(tmp_path)) == preferences.rows  # mapped, not read
    with pytest.raises(StoreError, match="checksum"):
        Embeddings.load(tmp_path, verify=True)
    with pytest.raises(StoreError, match="checksum"):
        encode(preferences, letters, tmp_path)


def test_keys_that_end_in_zeros_are_found() -> None:
    keys = [bytes(16), b"\1" + bytes(15), bytes(15) + b"\1"]
    store = Embeddings(torch.eye(3), np.frombuffer(b"".join(keys), dtype="S16"), torch.zeros(3), {}, None)
    assert store.find(keys[::-1]).tolist() == [2, 1, 0]
    assert store.find([conversation_key((), ())]).tolist() == [-1]

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders import HashEncoder, small_rows
from lore.data.formats import load
from lore.data.preferences import Preferences
from lore.embedding import Embeddings, Encoded, EncoderOptions, encode
from lore.errors import EncoderError, StoreError
from lore.pairs.table import Pairs


def test_every_conversation_is_embedded_once_and_found_again(preferences: Preferences, letters: HashEncoder) -> None:
    store = encode(preferences, letters)
    assert letters.encoded == preferences.rows
    vectors = store.vectors[store.rows(preferences)]
    expected = letters.encode([preferences.conversation(row) for row in range(preferences.rows)]).vectors
    torch.testing.assert_close(vectors, expected)


def test_a_store_on_disk_gives_the_same_and_only_new_texts_are_embedded(
    preferences: Preferences, letters: HashEncoder, tmp_path: Path
) -> None:
    first = encode(preferences, letters, tmp_path / "store")
    more = load(small_rows(users=3, prompts=8))
    before = letters.encoded
    second = encode(more, letters, tmp_path / "store")
    assert letters.encoded - before == more.rows - preferences.rows
    torch.testing.assert_close(second.vectors[second.rows(preferences)], first.vectors[first.rows(preferences)])
    again = Embeddings.load(tmp_path / "store", verify=True)
    assert torch.equal(again.vectors, second.vectors)
    assert len(list((tmp_path / "store").glob("shard-*"))) == 1  # merged
    with pytest.raises(StoreError, match="not in the store"):
        first.rows(more)


def test_a_killed_run_resumes_where_the_last_shard_ended(
    preferences: Preferences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lore.embedding.store._SHARD", 4)

    class Interrupted(HashEncoder):
        def encode(self, conversations: Sequence[Any]) -> Encoded:
            if self.encoded >= 8:
                raise KeyboardInterrupt
            return super().encode(conversations)

    with pytest.raises(KeyboardInterrupt):
        encode(preferences, Interrupted(), tmp_path / "store")
    resumed = HashEncoder()
    store = encode(preferences, resumed, tmp_path / "store")
    assert resumed.encoded == preferences.rows - 8
    assert torch.equal(store.vectors, encode(preferences, HashEncoder(), tmp_path / "other").vectors)
    assert not list((tmp_path / "store").glob(".*.partial"))


def test_workers_share_a_store_and_the_rest_of_a_killed_one_is_done_by_the_next_run(
    preferences: Preferences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lore.embedding.store._SHARD", 4)
    monkeypatch.setenv("WORLD_SIZE", "3")
    encoded = []
    for worker in (2, 0):  # the one in between was killed before it began
        monkeypatch.setenv("RANK", str(worker))
        own = HashEncoder()
        encode(preferences, own, tmp_path / "store")
        encoded.append(own.encoded)
    assert all(count > 0 for count in encoded)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    last = HashEncoder()
    store = encode(preferences, last, tmp_path / "store")
    assert sum(encoded) + last.encoded == preferences.rows == len(store)
    expected = encode(preferences, HashEncoder())
    assert torch.equal(store.vectors[store.rows(preferences)], expected.vectors[expected.rows(preferences)])


def test_two_processes_on_one_store_write_no_row_twice(preferences: Preferences, tmp_path: Path) -> None:
    class Meanwhile(HashEncoder):
        """While it encodes its first shard, another process embeds everything."""

        def encode(self, conversations: Sequence[Any]) -> Encoded:
            if conversations and not self.encoded:
                encode(preferences, HashEncoder(), tmp_path)
            return super().encode(conversations)

    store = encode(preferences, Meanwhile(), tmp_path)
    assert len(store) == len(np.unique(store.keys)) == preferences.rows
    expected = encode(preferences, HashEncoder())
    assert torch.equal(store.vectors[store.rows(preferences)], expected.vectors[expected.rows(preferences)])


def test_what_a_killed_process_left_is_cleared(preferences: Preferences, letters: HashEncoder, tmp_path: Path) -> None:
    encode(preferences, letters, tmp_path)
    (tmp_path / ".shard-00007.safetensors.4194304.partial").write_bytes(b"torn")  # above the largest process id
    (tmp_path / "shard-00007.safetensors").write_bytes(b"not named by the manifest")
    encode(load(small_rows(users=3, prompts=8)), letters, tmp_path)
    assert not list(tmp_path.glob(".*.partial"))
    assert len(list(tmp_path.glob("shard-*"))) == 1


def test_stores_of_two_encoders_are_not_mixed(preferences: Preferences, tmp_path: Path, reward_model: Path) -> None:
    encode(preferences, HashEncoder("one"), tmp_path / "one")
    with pytest.raises(StoreError, match="encoder is 'one' there and 'two' here"):
        encode(preferences, HashEncoder("two"), tmp_path / "one")
    encode(preferences, str(reward_model), tmp_path / "model")
    with pytest.raises(StoreError, match="max_length is 512 there and 300 here"):
        encode(preferences, str(reward_model), tmp_path / "model", options=EncoderOptions(max_length=300))


def test_a_store_that_nothing_was_added_to_may_change_its_encoder(
    preferences: Preferences, tmp_path: Path, reward_model: Path
) -> None:
    with pytest.raises(EncoderError, match="longer than"):
        encode(preferences, str(reward_model), tmp_path, options=EncoderOptions(max_length=8))
    options = EncoderOptions(max_length=8, truncation="left")
    assert len(encode(preferences, str(reward_model), tmp_path, options=options)) == preferences.rows


def test_a_large_table_stays_where_it_is_and_gives_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = small_rows(users=3, prompts=6)
    table = load(rows[::2] + rows[1::2])
    for stored in (
        load(small_rows(users=3, prompts=8)),
        load(rows),
    ):  # more than the table, and the same in another order
        store = encode(stored, HashEncoder())
        found = store.vectors[store.rows(table)]
        expected = found[torch.from_numpy(table.chosen)] - found[torch.from_numpy(table.rejected)]
        with monkeypatch.context() as patch:
            small = Pairs.from_embeddings(table, store)
            patch.setattr("lore.pairs.table.COPIED", 0)
            large = Pairs.from_embeddings(table, store)
        assert large.vectors is store.vectors
        strict = torch.from_numpy(table.chosen != table.rejected)
        for pairs in (small, large):
            assert torch.equal(pairs.differences(), expected[strict])
        for values in ("group", "response", "length"):
            assert torch.equal(getattr(large, values)[large.chosen], getattr(small, values)[small.chosen])


def test_vectors_that_are_not_finite_are_refused(preferences: Preferences) -> None:
    class Broken(HashEncoder):
        def encode(self, conversations: Sequence[Any]) -> Encoded:
            return Encoded.whole(torch.full((len(conversations), 26), float("nan")))

    with pytest.raises(StoreError, match="not finite"):
        encode(preferences, Broken())

"""Encoders side by side: each block's numbers are those of its encoder, at one scale."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import tiny_models
from builders import HashEncoder, small_rows
from lore.data.formats import load
from lore.data.preferences import Preferences
from lore.embedding import Embeddings, Encoded, EncoderOptions, encode, load_encoder
from lore.embedding.block_store import release
from lore.embedding.blocks import BlockEncoder
from lore.embedding.plans import plan
from lore.embedding.sentence import SentenceEncoder
from lore.embedding.tokens import DROPPED, Conversation
from lore.errors import EncoderError, StoreError

CONVERSATIONS: list[Conversation] = [
    ((("user", "Hi"),), (("assistant", "Hello there."),)),
    ((("user", "Hi"),), (("assistant", "What?"),)),
    ((), (("assistant", "Nothing was asked."),)),
]


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("causal"), "causal")


def test_each_block_is_its_encoder_at_one_scale(causal: Path) -> None:
    options = EncoderOptions(pooling="response", layer=1)
    both = load_encoder(f"minilm+{causal}", options)
    sentence = SentenceEncoder("minilm", EncoderOptions(), difference=True)
    model = load_encoder(str(causal), options)
    vectors = both.encode(CONVERSATIONS).vectors
    assert vectors.shape == (3, sentence.dim + model.dim) == (3, both.dim)
    torch.testing.assert_close(vectors[:, : sentence.dim], sentence.encode(CONVERSATIONS).vectors)
    ratio = vectors[:, sentence.dim :] / model.encode(CONVERSATIONS).vectors
    assert ratio.std() < 1e-4 * ratio.mean().abs()


def test_blocks_vary_alike(causal: Path) -> None:
    both = load_encoder(f"minilm+{causal}")
    conversations: list[Conversation] = [
        ((("user", f"Question {n}"),), (("assistant", "word " * n),)) for n in range(1, 30)
    ]
    vectors = both.encode(conversations).vectors
    first, second = vectors[:, : both.dim - 16], vectors[:, both.dim - 16 :]
    spreads = [float((block - block.mean(0)).pow(2).mean().sqrt()) for block in (first, second)]
    assert 0.2 < spreads[0] / spreads[1] < 5


def test_the_reference_is_the_score_of_the_only_block_that_has_one(reward_model: Path, causal: Path) -> None:
    alone, both = load_encoder(str(reward_model)), load_encoder(f"minilm+{reward_model}+{causal}")
    assert alone.reference is not None
    assert both.reference is not None
    scores = alone.encode(CONVERSATIONS).vectors @ alone.reference
    torch.testing.assert_close(both.encode(CONVERSATIONS).vectors @ both.reference, scores, rtol=1e-4, atol=1e-5)
    assert load_encoder(f"minilm+{causal}").reference is None


def test_what_one_block_drops_is_dropped(causal: Path) -> None:
    both = load_encoder(f"minilm+{causal}", EncoderOptions(max_length=40, truncation="drop"))
    long: Conversation = ((("user", "Hi"),), (("assistant", "a long answer " * 20),))
    encoded = both.encode([CONVERSATIONS[0], long])
    assert encoded.status.tolist() == [0, DROPPED]
    assert encoded.vectors[1].abs().sum() == 0 < encoded.vectors[0].abs().sum()


def test_the_fingerprint_names_every_block(causal: Path) -> None:
    first = load_encoder(f"minilm+{causal}", EncoderOptions(layer=1)).fingerprint
    second = load_encoder(f"minilm+{causal}", EncoderOptions(layer=2)).fingerprint
    assert {key for key in first if first[key] != second[key]} == {"block 2, layer"}
    assert first["encoder"] == f"minilm+{causal.name}"  # wherever the folder lies


@pytest.mark.parametrize("name", ["minilm+", "+minilm"])
def test_names_that_are_no_encoders_are_refused(name: str) -> None:
    with pytest.raises(EncoderError, match="side by side"):
        load_encoder(name)


# --- between response and prompt ----------------------------------------------------------------------------------


def test_a_block_of_sentences_says_how_far_a_response_is_from_its_prompt() -> None:
    plain = SentenceEncoder("minilm", EncoderOptions())
    with_difference = SentenceEncoder("minilm", EncoderOptions(), difference=True)
    assert plain.fingerprint["reads"] != with_difference.fingerprint["reads"]
    short, long = (encoder.encode(CONVERSATIONS).vectors for encoder in (plain, with_difference))
    half = plain.dim // 2
    torch.testing.assert_close(torch.cat([long[:, : 2 * half], long[:, -1:]], dim=1), short)
    response, prompt = short[:, :half] * 2**0.5, short[:, half : 2 * half] * 2**0.5
    expected = (response - prompt).abs() / 2
    expected[2] = 0  # nothing was asked
    torch.testing.assert_close(long[:, 2 * half : 3 * half], expected)
    echo: Conversation = ((("user", "Say it."),), (("assistant", "Say it."),))
    assert with_difference.encode([echo]).vectors[0, 2 * half : 3 * half].abs().max() < 1e-6
    assert with_difference.encode([]).vectors.shape == (0, with_difference.dim)


# --- stores -------------------------------------------------------------------------------------------------------


class _Letters(HashEncoder):
    """An encoder of a name, whose vectors are `times` those of another."""

    def __init__(self, name: str, times: float = 1.0) -> None:
        super().__init__()
        self.fingerprint = {"encoder": name, "times": int(times)}
        self._times = times

    def encode(self, conversations: Sequence[Conversation]) -> Encoded:
        encoded = super().encode(conversations)
        return Encoded(encoded.vectors * self._times, encoded.status)


@pytest.fixture
def table() -> Preferences:
    return load(small_rows(users=3, prompts=6))


def test_each_block_is_stored_once_whatever_it_stands_beside(table: Preferences, tmp_path: Path) -> None:
    first, second, third = _Letters("first"), _Letters("second", 3.0), _Letters("third", 5.0)
    before = {id(one): one.encoded for one in (first, second, third)}

    def embedded(*blocks: _Letters) -> list[int]:
        encoder = BlockEncoder(blocks, EncoderOptions()) if len(blocks) > 1 else blocks[0]
        for block in blocks:
            before[id(block)] = block.encoded
        release(tmp_path)
        store = encode(table, encoder, tmp_path)
        expected = encoder.encode([table.conversation(row) for row in range(table.rows)]).vectors
        assert torch.equal(store.vectors[store.rows(table)], expected)
        assert store.fingerprint == encoder.fingerprint
        assert torch.equal(Embeddings.load(tmp_path).vectors, store.vectors)
        return [block.encoded - before[id(block)] - table.rows for block in blocks]

    assert embedded(first, second) == [table.rows, table.rows]
    assert embedded(second, third) == [0, table.rows]
    assert embedded(third, first, second) == [0, 0, 0]
    assert embedded(second) == [0]
    assert embedded(_Letters("fourth"))[0] == table.rows
    assert embedded(first, second) == [0, 0]
    assert plan(table, BlockEncoder([first, third], EncoderOptions()), tmp_path).present == table.rows


def test_the_store_of_a_single_encoder_serves_as_a_block(table: Preferences, tmp_path: Path) -> None:
    first, second = _Letters("first"), _Letters("second", 3.0)
    alone = encode(table, first, tmp_path)
    counted = first.encoded
    with pytest.raises(StoreError, match="made by another encoder"):
        encode(table, BlockEncoder([first, second], EncoderOptions()), tmp_path)
    release(tmp_path)
    both = encode(table, BlockEncoder([first, second], EncoderOptions()), tmp_path)
    assert first.encoded == counted + 2 * 8  # the texts that scales are measured on
    assert torch.equal(both.vectors[both.rows(table), : first.dim], alone.vectors[alone.rows(table)])


def test_blocks_resume_each_on_its_own(table: Preferences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lore.embedding.store._SHARD", 4)
    first, second = _Letters("first"), _Letters("second", 3.0)
    blocks = BlockEncoder([first, second], EncoderOptions())
    counted, whole = (first.encoded, second.encoded), second.encode
    stop_at = second.encoded + 8

    def interrupted(conversations: Sequence[Conversation]) -> Encoded:
        if second.encoded >= stop_at:
            raise KeyboardInterrupt
        return whole(conversations)

    monkeypatch.setattr(second, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(table, blocks, tmp_path)
    monkeypatch.setattr(second, "encode", whole)
    store = encode(table, blocks, tmp_path)
    assert (first.encoded - counted[0], second.encoded - counted[1]) == (table.rows, table.rows)
    again = encode(table, blocks, tmp_path / "other")
    assert torch.equal(store.vectors, again.vectors)


def test_erased_conversations_leave_every_store(table: Preferences, tmp_path: Path) -> None:
    first, second, third = _Letters("first"), _Letters("second", 3.0), _Letters("third")
    encode(table, BlockEncoder([first, third], EncoderOptions()), tmp_path)
    release(tmp_path)
    encode(table, BlockEncoder([first, second], EncoderOptions()), tmp_path)
    assert Embeddings.drop(tmp_path, table.conversation_keys()[:2]) == 6
    assert len(Embeddings.load(tmp_path)) == table.rows - 2
    before = third.encoded
    with pytest.raises(StoreError, match="made by another encoder"):
        encode(table, third, tmp_path)
    release(tmp_path)
    encode(table, third, tmp_path)
    assert third.encoded == before + 2


def test_a_file_of_vectors_stands_beside_an_encoder(table: Preferences, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = 100 * torch.randn(table.rows, 5, generator=generator)
    save_file({"embeddings": vectors}, tmp_path / "vectors.safetensors")
    name = f"minilm+{tmp_path / 'vectors.safetensors'}"
    store = encode(table, name, tmp_path / "store")
    last = store.vectors[store.rows(table), -5:]
    assert torch.allclose(last / vectors, (last / vectors)[0, 0].expand_as(last), rtol=1e-4)
    assert last.std() < 1
    with pytest.raises(EncoderError, match="new texts cannot be"):
        load_encoder(name)


def test_many_joined_vectors_are_kept_in_a_file(
    table: Preferences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = BlockEncoder([_Letters("first"), _Letters("second", 3.0)], EncoderOptions())
    expected = encode(table, blocks, tmp_path).vectors
    monkeypatch.setattr("lore.embedding.block_store._IN_MEMORY", 0)
    assert torch.equal(Embeddings.load(tmp_path).vectors, expected)
    assert not list(tmp_path.glob(".*"))


def test_damaged_names_of_blocks_are_refused(table: Preferences, tmp_path: Path) -> None:
    encode(table, BlockEncoder([_Letters("first"), _Letters("second")], EncoderOptions()), tmp_path)
    (tmp_path / "blocks.json").write_text('{"format": 9}')
    with pytest.raises(StoreError, match="reads up to 1"):
        Embeddings.load(tmp_path)


def test_vectors_of_an_equal_encoder_are_taken_over(table: Preferences, tmp_path: Path) -> None:
    first = _Letters("first")
    made = replace(encode(table, first), fingerprint={**first.fingerprint, "torch": "0", "storage": "float16"})
    other = _Letters("other")
    before = (first.encoded, other.encoded)
    store = encode(table, first, tmp_path / "first", reuse=[made])
    assert torch.equal(store.vectors[store.rows(table)], made.vectors[made.rows(table)])
    encode(table, other, tmp_path / "other", reuse=[made])
    assert (first.encoded - before[0], other.encoded - before[1]) == (0, table.rows)

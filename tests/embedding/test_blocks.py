"""Encoders side by side: each block's numbers are those of its encoder, at one scale."""

from pathlib import Path

import pytest
import torch

import tiny_models
from lore.embedding import EncoderOptions, load_encoder
from lore.embedding.tokens import DROPPED, Conversation
from lore.errors import EncoderError

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
    sentence, model = load_encoder("minilm"), load_encoder(str(causal), options)
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


@pytest.mark.parametrize("name", ["minilm+", "+minilm", "minilm+vectors.npy"])
def test_names_that_are_no_encoders_are_refused(name: str) -> None:
    with pytest.raises(EncoderError, match="side by side"):
        load_encoder(name)

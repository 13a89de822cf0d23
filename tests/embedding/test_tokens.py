from pathlib import Path
from typing import Any

import pytest

import tiny_models
from builders import HashEncoder, small_rows
from embedding_builders import CONVERSATIONS, conversation
from lore.data.formats import load
from lore.embedding import Embeddings, Encoded, EncoderOptions, encode, load_encoder
from lore.embedding.tokens import CUT, DROPPED
from lore.errors import EncoderError
from lore.pairs.table import Pairs

LONG = conversation("What is two and two?", "four " * 200)


def test_a_long_text_is_refused_dropped_or_cut_and_never_in_silence(reward_model: Path) -> None:
    def of(policy: Any) -> Encoded:
        options = EncoderOptions(max_length=100, truncation=policy)
        return load_encoder(str(reward_model), options).encode([CONVERSATIONS[0], LONG])

    with pytest.raises(EncoderError, match="1 conversations are longer than `max_length` 100 tokens"):
        of("error")
    assert of("drop").status.tolist() == [0, DROPPED]
    assert bool((of("drop").vectors[1] == 0).all())
    for policy in ("left", "right"):
        assert of(policy).status.tolist() == [0, CUT]
    tokenizer = tiny_models.tokenizer()
    for policy in ("left", "right"):
        options = EncoderOptions(max_length=100, truncation=policy)
        row = load_encoder(str(reward_model), options).tokens([LONG]).tokens[0]
        assert len(row) == 100
        assert (row[0], row[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert ("two and two" in tokenizer.decode(row)) == (policy == "right")


def test_a_limit_above_the_models_is_refused(reward_model: Path) -> None:
    for name in (str(reward_model), "minilm"):
        with pytest.raises(EncoderError, match="512 tokens at most, got `max_length` 513"):
            load_encoder(name, EncoderOptions(max_length=513))


def test_what_was_cut_or_dropped_is_counted_by_side(tmp_path: Path, language_model: Path) -> None:
    rows = small_rows(users=3, prompts=6)
    rows[0]["chosen"] = rows[3]["chosen"] = "long " * 100
    table = load(rows)
    for policy in ("drop", "right"):
        options = EncoderOptions(max_length=200, truncation=policy)
        store = encode(table, str(language_model), tmp_path / policy, options=options)
        found = Embeddings.load(tmp_path / policy).truncation_counts(table)
        assert (found.chosen, found.rejected) == (2, 0)
        assert "(chosen in 2 comparisons, rejected in 0, which biases" in str(found.message())
        assert len(Pairs.from_embeddings(table, store)) == len(table) - (2 if policy == "drop" else 0)
    harmless = load(small_rows(users=3, prompts=6))
    assert encode(harmless, HashEncoder()).truncation_counts(harmless).message() is None

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import tiny
from conftest import HashEncoder, small_rows
from lore.embedding import Embeddings, Encoded, EncoderOptions, encode, load_encoder, plan
from lore.embedding.batches import batches, groups
from lore.embedding.tokens import CUT, DROPPED, ChatTokens, Conversation
from lore.errors import ConfigError, EncoderError, MissingExtra, StoreError
from lore.pairs import Pairs
from lore.preferences import Preferences, conversation_key
from lore.sources import load


@pytest.fixture
def preferences() -> Preferences:
    return load(small_rows(users=3, prompts=6))


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model whose template ends a text with the token that is also the padding."""
    return tiny.save(tmp_path_factory.mktemp("reward-model"))


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("language-model"), "causal")


def conversation(prompt: str, response: str) -> Conversation:
    return (("user", prompt),), (("assistant", response),)


CONVERSATIONS = [
    conversation("What is two and two?", "Four."),
    conversation("What is two and two?", "It is four, as everybody knows who ever counted to it."),
    conversation("What is two and two?", ""),
    conversation("Is the sky blue, or does it only look so to us?", "The sky is blue."),
    conversation("Is the sky blue, or does it only look so to us?", "It scatters what the sun sends. " * 3),
    conversation("Hi", "Ho"),
]


def scores(folder: Path, conversations: Sequence[Conversation]) -> torch.Tensor:
    """The model's own scores, one conversation at a time, without any padding."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model.config.pad_token_id = None
    found = []
    for sides in conversations:
        turns = [{"role": role, "content": content} for side in sides for role, content in side]
        ids = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, return_tensors="pt")["input_ids"]
        found.append(model(input_ids=ids).logits[0, 0].detach())
    return torch.stack(found)


# --- reward models and language models ----------------------------------------------------------------------------


def test_head_times_vector_is_the_reward_models_own_score(reward_model: Path) -> None:
    encoder = load_encoder(str(reward_model))
    vectors = encoder.encode(CONVERSATIONS).vectors
    torch.testing.assert_close(vectors @ encoder.reference, scores(reward_model, CONVERSATIONS), atol=1e-4, rtol=1e-4)
    assert vectors.dtype == torch.float32
    assert vectors.std(dim=0).min() > 1e-3  # they differ


@pytest.mark.parametrize("share", [True, False], ids=["shared prompts", "each whole"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_vector_depends_on_its_own_conversation_alone(language_model: Path, pooling: str, share: bool) -> None:
    encoder = load_encoder(str(language_model), EncoderOptions(pooling=pooling, share_prompts=share))
    alone = torch.cat([encoder.encode([one]).vectors for one in CONVERSATIONS])
    for batch_tokens in (1, 150, 16_384):
        options = EncoderOptions(pooling=pooling, share_prompts=share, batch_tokens=batch_tokens)
        together = load_encoder(str(language_model), options).encode(CONVERSATIONS).vectors
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    order = [3, 0, 5, 2, 4, 1]
    shuffled = encoder.encode([CONVERSATIONS[at] for at in order]).vectors
    torch.testing.assert_close(shuffled, alone[order], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_pooling_is_of_the_hidden_states_after_the_final_norm(language_model: Path, pooling: str) -> None:
    from transformers import AutoModelForCausalLM

    encoder = load_encoder(str(language_model), EncoderOptions(pooling=pooling))
    model = AutoModelForCausalLM.from_pretrained(language_model)
    tokens = encoder.tokens(CONVERSATIONS).tokens
    for row, vector in zip(tokens, encoder.encode(CONVERSATIONS).vectors, strict=True):
        hidden = model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0].detach()
        torch.testing.assert_close(vector, hidden[-1] if pooling == "last" else hidden.mean(0), atol=1e-4, rtol=1e-4)
    assert encoder.reference is None


def test_the_side_that_a_tokenizer_pads_on_does_not_matter(reward_model: Path, tmp_path: Path) -> None:
    for side in ("left", "right"):
        folder = shutil.copytree(reward_model, tmp_path / side)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": side}))
    left, right = (load_encoder(str(tmp_path / side)).encode(CONVERSATIONS).vectors for side in ("left", "right"))
    assert torch.equal(left, right)


def test_where_and_how_a_model_attends_does_not_matter(language_model: Path) -> None:
    expected = load_encoder(str(language_model)).encode(CONVERSATIONS).vectors
    elsewhere = load_encoder(str(language_model), EncoderOptions(device_map="cpu", attention="eager"))
    torch.testing.assert_close(elsewhere.encode(CONVERSATIONS).vectors, expected, atol=1e-4, rtol=1e-4)


def test_a_gguf_file_gives_the_vectors_of_the_model_it_was_made_from(tmp_path: Path) -> None:
    path = tiny.save_gguf(tmp_path / "model.gguf")
    encoder, whole = load_encoder(str(path)), load_encoder(str(tmp_path / "model"))
    torch.testing.assert_close(
        encoder.encode(CONVERSATIONS).vectors, whole.encode(CONVERSATIONS).vectors, atol=1e-4, rtol=1e-4
    )
    assert encoder.fingerprint["encoder"] == "model.gguf"
    assert encoder.fingerprint["weights"] != whole.fingerprint["weights"]


def test_shared_prompts_are_read_once_and_said(language_model: Path) -> None:
    encoder = load_encoder(str(language_model))
    tokens = encoder.tokens(CONVERSATIONS).tokens
    whole = sum(map(len, tokens))
    assert encoder.passes(tokens) < 0.8 * whole
    assert load_encoder(str(language_model), EncoderOptions(share_prompts=False)).passes(tokens) == whole


def test_a_model_that_attends_to_a_window_encodes_each_conversation_whole(tmp_path: Path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    fast = tiny.tokenizer()
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(fast), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, sliding_window=8, max_position_embeddings=512,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path)
    fast.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    tokens = encoder.tokens(CONVERSATIONS).tokens
    assert encoder.passes(tokens) == sum(map(len, tokens))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near_single_precision_and_is_in_the_fingerprint(reward_model: Path, dtype: Any) -> None:
    exact = load_encoder(str(reward_model)).encode(CONVERSATIONS).vectors
    encoder = load_encoder(str(reward_model), EncoderOptions(dtype=dtype, storage="bfloat16"))
    vectors = encoder.encode(CONVERSATIONS).vectors
    assert vectors.dtype == torch.bfloat16
    assert ((vectors.float() - exact).norm(dim=1) <= 0.05 * exact.norm(dim=1)).all()
    assert (encoder.fingerprint["dtype"], encoder.fingerprint["storage"]) == (dtype, "bfloat16")


def test_a_text_begins_once_and_a_template_that_begins_it_twice_is_refused(reward_model: Path, tmp_path: Path) -> None:
    encoder = load_encoder(str(reward_model))
    begin = tiny.tokenizer().bos_token_id
    assert all(row.count(begin) == 1 and row[0] == begin for row in encoder.tokens(CONVERSATIONS).tokens)
    twice = tiny.save(tmp_path, template="{{ bos_token }}" + tiny.TEMPLATE)
    with pytest.raises(EncoderError, match="begins a text 2 times"):
        load_encoder(str(twice))


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([*tiny.SPECIAL, "<|", "|>", "start", " ", "\n", "x", "\ue000"]), max_size=8).map("".join)
)
def test_a_text_that_spells_control_tokens_is_read_as_text(content: str) -> None:
    tokenizer = tiny.tokenizer()
    chat = ChatTokens(tokenizer, "tiny")
    tokens = chat.of([conversation("x", content)])[0]
    harmless = chat.of([conversation("x", "x")])[0]
    control = set(tokenizer.convert_tokens_to_ids(list(tiny.SPECIAL)))
    assert [token for token in tokens if token in control] == [token for token in harmless if token in control]
    assert tokenizer.decode(tokens) == tokenizer.decode(harmless).replace(
        "assistant\nx", f"assistant\n{content.strip()}"
    )


def test_a_conversation_that_the_template_refuses_is_named_with_its_reason(tmp_path: Path) -> None:
    strict = (
        "{% for turn in messages %}{% if turn.role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    )
    encoder = load_encoder(str(tiny.save(tmp_path, template=strict + "{{ turn.content }}<|end|>{% endfor %}")))
    with pytest.raises(EncoderError, match="no system turns"):
        encoder.encode([((("system", "Be brief."),), (("assistant", "Yes."),))])


def test_what_is_no_reward_model_is_refused(reward_model: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder(str(tmp_path / "nowhere"))
    with pytest.raises(EncoderError, match="one output"):
        load_encoder(str(tiny.save(tmp_path / "two", num_labels=2)))
    plain = shutil.copytree(reward_model, tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    with pytest.raises(EncoderError, match="has no chat template"):
        load_encoder(str(plain))
    headless = shutil.copytree(reward_model, tmp_path / "headless")
    weights = load_file(headless / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, headless / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="without the weights of its head"):
        load_encoder(str(headless))
    with pytest.raises(EncoderError, match="`pooling` must be 'last'"):
        load_encoder(str(reward_model), EncoderOptions(pooling="mean"))


def test_a_model_that_fails_a_probe_is_refused(reward_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForSequenceClassification, LlamaModel

    forward, inner = LlamaForSequenceClassification.forward, LlamaModel.forward

    def another_score(self: Any, *arguments: Any, **named: Any) -> Any:
        found = forward(self, *arguments, **named)
        found.logits = found.logits + 50
        return found

    def unmasked(self: Any, *arguments: Any, **named: Any) -> Any:
        found = inner(self, *arguments, **named)
        found.last_hidden_state = found.last_hidden_state + found.last_hidden_state.shape[1]  # sees the padding
        return found

    with monkeypatch.context() as patch:
        patch.setattr(LlamaForSequenceClassification, "forward", another_score)
        with pytest.raises(EncoderError, match="its hidden states cannot be trusted"):
            load_encoder(str(reward_model))
    with monkeypatch.context() as patch:
        patch.setattr(LlamaModel, "forward", unmasked)
        with pytest.raises(EncoderError, match="depends on what is encoded beside it"):
            load_encoder(str(reward_model))


# --- sentence encoders, and vectors that were made elsewhere ------------------------------------------------------


def test_minilm_does_not_depend_on_its_neighbours_and_says_what_it_cut() -> None:
    encoder = load_encoder("minilm")
    texts = ["short", "a little longer than that", "word " * 400, ""]
    conversations = [((), (("assistant", text),)) for text in texts]
    together = encoder.encode(conversations)
    assert together.status.tolist() == [0, 0, CUT, 0]
    assert together.vectors.shape == (4, 769)
    response, prompt, length = together.vectors.split([384, 384, 1], dim=1)
    torch.testing.assert_close(response.norm(dim=1), torch.full((4,), 0.5**0.5))
    assert bool((prompt == 0).all())  # nothing was asked
    characters = torch.tensor([float(len(text)) for text in texts])
    torch.testing.assert_close(length.squeeze(1), 0.3 * (characters.log1p() - 6))  # of the whole text, cut or not
    asked, other = (encoder.encode([conversation(prompt, "short")]).vectors[0] for prompt in ("Why?", "Who are you?"))
    torch.testing.assert_close(asked[:384], together.vectors[0, :384], atol=1e-5, rtol=0)
    assert float((asked - other)[:384].abs().max()) < 1e-5 < float((asked - other)[384:].abs().max())
    assert asked[768] == other[768]
    for at, one in enumerate(conversations):
        torch.testing.assert_close(encoder.encode([one]).vectors[0], together.vectors[at], atol=1e-5, rtol=0)
    assert float(response[0] @ response[1]) < 0.99


def test_a_sentence_encoder_pools_as_its_folder_says(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "sentence")
    mean = load_encoder(str(folder)).encode(CONVERSATIONS).vectors
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    first = load_encoder(str(folder))
    assert first.fingerprint["pooling"] == "first, length 1"
    assert not torch.allclose(first.encode(CONVERSATIONS).vectors, mean)
    last = load_encoder(str(folder), EncoderOptions(pooling="last")).encode(CONVERSATIONS).vectors
    assert not torch.allclose(last, mean)


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


# --- the length limit ---------------------------------------------------------------------------------------------


LONG = conversation("What is two and two?", "four " * 200)


def test_a_long_text_is_refused_dropped_or_cut_and_never_in_silence(reward_model: Path) -> None:
    def of(policy: Any) -> Encoded:
        options = EncoderOptions(max_length=100, on_long=policy)
        return load_encoder(str(reward_model), options).encode([CONVERSATIONS[0], LONG])

    with pytest.raises(EncoderError, match="1 conversations are longer than `max_length` 100 tokens"):
        of("error")
    assert of("drop").status.tolist() == [0, DROPPED]
    assert bool((of("drop").vectors[1] == 0).all())
    for policy in ("left", "right"):
        assert of(policy).status.tolist() == [0, CUT]
    tokenizer = tiny.tokenizer()
    for policy in ("left", "right"):
        options = EncoderOptions(max_length=100, on_long=policy)
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
        options = EncoderOptions(max_length=200, on_long=policy)
        store = encode(table, str(language_model), tmp_path / policy, options=options)
        found = Embeddings.load(tmp_path / policy).too_long(table)
        assert (found.chosen, found.rejected) == (2, 0)
        assert "the chosen side of 2 comparisons and the rejected side of 0" in str(found.message())
        assert len(Pairs.from_embeddings(table, store)) == len(table) - (2 if policy == "drop" else 0)
    harmless = load(small_rows(users=3, prompts=6))
    assert encode(harmless, HashEncoder()).too_long(harmless).message() is None


# --- batches ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 2_000))
def test_batches_hold_everything_once_within_the_budget_and_with_little_padding(
    lengths: list[int], budget: int
) -> None:
    found = list(batches(lengths, budget))
    assert sorted(at for batch in found for at in batch) == list(range(len(lengths)))
    for batch in found:
        longest, total = max(lengths[at] for at in batch), sum(lengths[at] for at in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
        assert total >= 0.95 * len(batch) * longest


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=60), max_size=20), st.integers(0, 5))
def test_groups_hold_everything_once_and_share_what_they_say(tokens: list[list[int]], preamble: int) -> None:
    found, alone = groups(tokens, preamble)
    assert sorted([*alone, *(at for group in found for at in group.rows)]) == list(range(len(tokens)))
    for group in found:
        assert len(group.rows) > 1
        assert len({tuple(tokens[at][: group.shared]) for at in group.rows}) == 1
        assert all(len(tokens[at]) > group.shared for at in group.rows)


def test_eight_responses_to_each_prompt_make_one_group_each() -> None:
    prompts = [[9] * 30 + [prompt] * 50 for prompt in range(4)]
    tokens = [prompt + [5, answer] * 10 for answer in range(8) for prompt in prompts]
    found, alone = groups(tokens, preamble=30)
    assert not alone
    assert sorted(len(group.rows) for group in found) == [8] * 4
    assert all(group.shared >= 80 for group in found)


# --- the store ----------------------------------------------------------------------------------------------------


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
    options = EncoderOptions(max_length=8, on_long="left")
    assert len(encode(preferences, str(reward_model), tmp_path, options=options)) == preferences.rows


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
    monkeypatch.setattr("lore.embedding.folder._CHECKED", 0)
    encode(preferences, letters, tmp_path)
    shard = next(tmp_path.glob("shard-*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert len(Embeddings.load(tmp_path)) == preferences.rows  # mapped, not read
    with pytest.raises(StoreError, match="checksum"):
        Embeddings.load(tmp_path, verify=True)
    with pytest.raises(StoreError, match="checksum"):
        encode(preferences, letters, tmp_path)


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
            patch.setattr("lore.pairs._COPIED", 0)
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


def test_the_plan_says_what_there_is_to_do(preferences: Preferences, tmp_path: Path, language_model: Path) -> None:
    encoder = load_encoder(str(language_model))
    before = plan(preferences, encoder, tmp_path / "store")
    assert (before.conversations, before.present) == (preferences.rows, 0)
    assert before.read is not None
    assert before.tokens is not None
    assert 0 < before.read < before.tokens
    assert before.bytes == preferences.rows * 16 * 4
    assert before.seconds > 0
    assert not (tmp_path / "store").exists()
    encode(preferences, encoder, tmp_path / "store")
    after = plan(preferences, encoder, tmp_path / "store")
    assert (after.present, after.bytes, after.seconds) == (preferences.rows, 0, 0.0)
    assert f"{preferences.rows} of them in the store already" in after.message()


def test_keys_that_end_in_zeros_are_found() -> None:
    keys = [bytes(16), b"\1" + bytes(15), bytes(15) + b"\1"]
    store = Embeddings(torch.eye(3), np.frombuffer(b"".join(keys), dtype="S16"), torch.zeros(3), {}, None)
    assert store.find(keys[::-1]).tolist() == [2, 1, 0]
    assert store.find([conversation_key((), ())]).tolist() == [-1]


# --- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_long": "cut"}, "`on_long` must be one of error, drop, left, right, got 'cut'"),
        ({"max_length": 3}, "`max_length` must be 8"),
        ({"batch_tokens": 0}, "`batch_tokens`"),
        ({"dtype": "float8"}, "`dtype`"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EncoderOptions(**options)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"lore-reward\[embed\]"):
        load_encoder("minilm")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Embeddings:
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run([sys.executable, Path(__file__).parent / "killed.py", folder, "0"], check=True)
    return Embeddings.load(folder)


# Two syncs make a file safe: its own, and its folder's. The store writes its manifest, a shard, the manifest, ... and
# in the end one merged shard and the manifest.
@pytest.mark.parametrize("moment", [2, 3, 6, 9, 12])
def test_a_run_that_is_killed_resumes_to_the_same_bits(
    tmp_path: Path, undisturbed: Embeddings, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    script = [sys.executable, Path(__file__).parent / "killed.py", tmp_path]
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
    recipe = Path(__file__).parents[1] / "examples" / "embed_with_ray.py"
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

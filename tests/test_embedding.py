import json
from pathlib import Path

import pytest
import torch

from conftest import HashEncoder, small_rows
from lore.embedding import Embeddings, Encoded, encode, load_encoder
from lore.errors import EncoderError, MissingExtra, StoreError
from lore.preferences import Preferences
from lore.sources import load

TEMPLATE = "{% for turn in messages %}<{{ turn['role'] }}> {{ turn['content'] }} {% endfor %}"


@pytest.fixture
def preferences() -> Preferences:
    return load(small_rows(users=3, prompts=6))


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
    again = Embeddings.load(tmp_path / "store")
    assert torch.equal(again.vectors, second.vectors)
    with pytest.raises(StoreError, match="not in the store"):
        first.rows(more)


def test_a_killed_run_resumes_where_the_last_shard_ended(
    preferences: Preferences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lore.embedding.store._SHARD", 4)

    class Interrupted(HashEncoder):
        def encode(self, conversations) -> Encoded:
            if self.encoded >= 8:
                raise KeyboardInterrupt
            return super().encode(conversations)

    with pytest.raises(KeyboardInterrupt):
        encode(preferences, Interrupted(), tmp_path / "store")
    resumed = HashEncoder()
    store = encode(preferences, resumed, tmp_path / "store")
    assert resumed.encoded == preferences.rows - 8
    torch.testing.assert_close(store.vectors, encode(preferences, HashEncoder()).vectors)
    assert not list((tmp_path / "store").glob(".*"))


def test_stores_of_two_encoders_are_not_mixed(preferences: Preferences, tmp_path: Path) -> None:
    encode(preferences, HashEncoder("one"), tmp_path)
    with pytest.raises(StoreError, match="encoder is 'one' there and 'two' here"):
        encode(preferences, HashEncoder("two"), tmp_path)


def test_damage_is_found_and_named(preferences: Preferences, letters: HashEncoder, tmp_path: Path) -> None:
    encode(preferences, letters, tmp_path)
    shard = tmp_path / "shard-00000.safetensors"
    whole = shard.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[: len(whole) // 2]):
        shard.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"shard-00000.*checksum"):
            Embeddings.load(tmp_path)
    shard.unlink()
    with pytest.raises(StoreError, match="missing"):
        Embeddings.load(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(StoreError, match="format 1"):
        Embeddings.load(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(StoreError, match="no readable store"):
        Embeddings.load(tmp_path)


def test_vectors_that_are_not_finite_are_refused(preferences: Preferences) -> None:
    class Broken(HashEncoder):
        def encode(self, conversations) -> Encoded:
            return Encoded(torch.full((len(conversations), 26), float("nan")), 0)

    with pytest.raises(StoreError, match="not finite"):
        encode(preferences, Broken())


def test_minilm_does_not_depend_on_its_neighbours_and_says_what_it_cut() -> None:
    encoder = load_encoder("minilm")
    texts = ["short", "a little longer than that", "word " * 400, ""]
    conversations = [((), (("assistant", text),)) for text in texts]
    together = encoder.encode(conversations)
    assert together.cut == 1
    assert together.vectors.shape == (4, 384)
    torch.testing.assert_close(together.vectors.norm(dim=1), torch.ones(4))
    for at, conversation in enumerate(conversations):
        torch.testing.assert_close(encoder.encode([conversation]).vectors[0], together.vectors[at], atol=1e-5, rtol=0)
    assert float(together.vectors[0] @ together.vectors[1]) < 0.99


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a scalar head, and a tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    words = [
        "<pad>",
        "<unk>",
        "<user>",
        "<assistant>",
        *["what", "is", "two", "and", "four", "the", "sky", "blue", "a", ".", "?"],
    ]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_labels=1, pad_token_id=0, max_position_embeddings=64,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("reward-model")
    LlamaForSequenceClassification(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def test_the_head_of_a_reward_model_is_the_reference(reward_model: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    encoder = load_encoder(str(reward_model))
    model = AutoModelForSequenceClassification.from_pretrained(reward_model)
    torch.testing.assert_close(encoder.reference, model.score.weight[0].detach())
    conversations = [
        ((("user", "what is two"),), (("assistant", "four ."),)),
        ((("user", "is the sky blue"),), (("assistant", "the sky is blue . what is two and two ?"),)),
    ]
    vectors = encoder.encode(conversations).vectors
    tokenizer = encoder._tokenizer  # type: ignore[attr-defined]
    for conversation, vector in zip(conversations, vectors, strict=True):
        turns = [{"role": role, "content": content} for side in conversation for role, content in side]
        ids = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, return_tensors="pt")["input_ids"]
        torch.testing.assert_close(
            vector @ encoder.reference, model(input_ids=ids).logits[0, 0].detach(), atol=1e-4, rtol=0
        )
    assert encoder.encode([((("user", "two " * 100),), (("assistant", "four"),))]).cut == 1


def test_models_that_are_no_reward_models_are_refused(reward_model: Path, tmp_path: Path) -> None:
    import shutil

    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder(str(tmp_path / "nowhere"))
    plain = tmp_path / "plain"
    shutil.copytree(reward_model, plain)
    (plain / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((plain / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (plain / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(EncoderError, match="chat template"):
        load_encoder(str(plain))
    two = tmp_path / "two"
    shutil.copytree(reward_model, two)
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(reward_model)
    config.num_labels = 2
    AutoModelForSequenceClassification.from_config(config).save_pretrained(two)
    with pytest.raises(EncoderError, match="one output"):
        load_encoder(str(two))


def test_a_head_that_does_not_give_the_models_score_is_refused(reward_model: Path, monkeypatch) -> None:
    from transformers import LlamaForSequenceClassification

    forward = LlamaForSequenceClassification.forward

    def wrong(self, *arguments, **named):
        found = forward(self, *arguments, **named)
        found.logits = found.logits + 5
        return found

    monkeypatch.setattr(LlamaForSequenceClassification, "forward", wrong)
    with pytest.raises(EncoderError, match="fails its probe"):
        load_encoder(str(reward_model))


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"lore-reward\[embed\]"):
        load_encoder("minilm")

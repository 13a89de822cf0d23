import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import tiny_models
from embedding_builders import CONVERSATIONS, conversation
from lore.embedding import EncoderOptions, load_encoder
from lore.embedding.tokens import ChatTokens, Conversation
from lore.errors import EncoderError


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
    path = tiny_models.save_gguf(tmp_path / "model.gguf")
    encoder, whole = load_encoder(str(path)), load_encoder(str(tmp_path / "model"))
    torch.testing.assert_close(
        encoder.encode(CONVERSATIONS).vectors, whole.encode(CONVERSATIONS).vectors, atol=1e-4, rtol=1e-4
    )
    assert encoder.fingerprint["encoder"] == "model.gguf"
    assert encoder.fingerprint["weights"] != whole.fingerprint["weights"]


def test_a_gguf_file_is_unpacked_once_where_that_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    path = tiny_models.save_gguf(tmp_path / "model.gguf")
    first = load_encoder(str(path))
    unpacked = list((tmp_path / "cache" / "lore").iterdir())
    assert [folder.name.split("-")[0] for folder in unpacked] == ["model"]
    monkeypatch.setattr("lore.embedding.gguf._unpack", None)  # is not called again
    second = load_encoder(str(path))
    monkeypatch.undo()
    (tmp_path / "file").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "file"))
    direct = load_encoder(str(path))
    for other in (second, direct):
        assert torch.equal(first.encode(CONVERSATIONS).vectors, other.encode(CONVERSATIONS).vectors)
        assert first.fingerprint == other.fingerprint


def test_shared_prompts_are_read_once_and_said(language_model: Path) -> None:
    encoder = load_encoder(str(language_model))
    tokens = encoder.tokens(CONVERSATIONS).tokens
    whole = sum(map(len, tokens))
    assert encoder.passes(tokens) < 0.8 * whole
    assert load_encoder(str(language_model), EncoderOptions(share_prompts=False)).passes(tokens) == whole


def test_a_model_that_attends_to_a_window_encodes_each_conversation_whole(tmp_path: Path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    fast = tiny_models.tokenizer()
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
    begin = tiny_models.tokenizer().bos_token_id
    assert all(row.count(begin) == 1 and row[0] == begin for row in encoder.tokens(CONVERSATIONS).tokens)
    twice = tiny_models.save(tmp_path, template="{{ bos_token }}" + tiny_models.TEMPLATE)
    with pytest.raises(EncoderError, match="begins a text 2 times"):
        load_encoder(str(twice))


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([*tiny_models.SPECIAL, "<|", "|>", "start", " ", "\n", "x", "\ue000"]), max_size=8).map(
        "".join
    )
)
def test_a_text_that_spells_control_tokens_is_read_as_text(content: str) -> None:
    tokenizer = tiny_models.tokenizer()
    chat = ChatTokens(tokenizer, "tiny")
    tokens = chat.of([conversation("x", content)])[0]
    harmless = chat.of([conversation("x", "x")])[0]
    control = set(tokenizer.convert_tokens_to_ids(list(tiny_models.SPECIAL)))
    assert [token for token in tokens if token in control] == [token for token in harmless if token in control]
    assert tokenizer.decode(tokens) == tokenizer.decode(harmless).replace(
        "assistant\nx", f"assistant\n{content.strip()}"
    )


CALLS = '[{"function": {"arguments": {"city": "Rome"}, "name": "weather"}, "type": "function"}]'
CALLED: Conversation = ((("user", "Hi"),), (("tool_calls", CALLS), ("tool", "20 C"), ("assistant", "Warm.")))


def test_calls_of_tools_are_written_by_a_template_that_knows_them_and_are_text_elsewhere() -> None:
    with_calls = (
        "{% for turn in messages %}{{ turn.role }}:{{ turn.content }}"
        "{% for call in turn.tool_calls or [] %}<call {{ call.function.name }}>{% endfor %}; {% endfor %}"
    )
    tokenizer = tiny_models.tokenizer(with_calls)
    text = tokenizer.decode(ChatTokens(tokenizer, "tiny").of([CALLED])[0])
    assert text == "user:Hi; assistant:<call weather>; tool:20 C; assistant:Warm.; "
    tokenizer = tiny_models.tokenizer(with_calls.replace("turn.tool_calls or []", "[]"))
    text = tokenizer.decode(ChatTokens(tokenizer, "tiny").of([CALLED])[0])
    assert text == f"user:Hi; assistant:{CALLS}; tool:20 C; assistant:Warm.; "


def test_a_template_that_refuses_calls_reads_them_as_text() -> None:
    strict = (
        "{% for turn in messages %}{% if turn.tool_calls %}{{ raise_exception('no calls') }}{% endif %}"
        "{{ turn.content }}\n{% endfor %}"
    )
    tokenizer = tiny_models.tokenizer(strict)
    assert "weather" in tokenizer.decode(ChatTokens(tokenizer, "tiny").of([CALLED])[0])


def test_a_template_may_begin_every_turn_with_the_token_that_begins_a_text(tmp_path: Path) -> None:
    """So do those of ChatML whose `<|im_start|>` is that token."""
    turns = "{% for turn in messages %}{{ bos_token }}{{ turn.role }} {{ turn.content }}<|end|>{% endfor %}"
    encoder = load_encoder(str(tiny_models.save(tmp_path, "causal", template=turns)))
    assert encoder.encode([conversation("x", "y")]).vectors.norm() > 0


def test_a_conversation_that_the_template_refuses_is_named_with_its_reason(tmp_path: Path) -> None:
    strict = (
        "{% for turn in messages %}{% if turn.role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    )
    encoder = load_encoder(str(tiny_models.save(tmp_path, template=strict + "{{ turn.content }}<|end|>{% endfor %}")))
    with pytest.raises(EncoderError, match="no system turns"):
        encoder.encode([((("system", "Be brief."),), (("assistant", "Yes."),))])


def test_what_is_no_reward_model_is_refused(reward_model: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder(str(tmp_path / "nowhere"))
    with pytest.raises(EncoderError, match="one output"):
        load_encoder(str(tiny_models.save(tmp_path / "two", num_labels=2)))
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

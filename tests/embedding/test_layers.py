"""Hidden states of any layer, averaged over the response: laws against the model's own hidden states."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_models
from lore.embedding import EncoderOptions, load_encoder
from lore.embedding.load import load_layers
from lore.embedding.tokens import Conversation
from lore.errors import ConfigError, EncoderError

PROMPT = (("user", "Which of these two do you like best, and why is that so?"),)
CONVERSATIONS: list[Conversation] = [
    (PROMPT, (("assistant", "The first."),)),
    (PROMPT, (("assistant", "The second, as it says more about what was asked."),)),
    (PROMPT, (("assistant", "The second, as it says less."),)),
    ((("user", "Hi"), ("assistant", "Hello."), ("user", "Again")), (("assistant", "Hi."),)),
    ((), (("assistant", "Nobody asked."),)),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("causal"), "causal")


def encoded(model: Path, conversations: Sequence[Conversation] = CONVERSATIONS, **options: Any) -> Tensor:
    return load_encoder(str(model), EncoderOptions(**options)).encode(conversations).vectors


def oracle(model: Path, conversation: Conversation, layer: int | None) -> Tensor:
    """The mean over the tokens after those that the prompt gives alone, from the model's own hidden states."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    prompt, response = ([{"role": role, "content": text} for role, text in part] for part in conversation)
    ids = tokenizer.apply_chat_template(prompt + response, return_dict=False)
    begin = len(tokenizer.apply_chat_template(prompt, return_dict=False)) if prompt else 0
    language_model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        states = language_model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return states[-1 if layer is None else layer][0, begin:].mean(0)


@pytest.mark.parametrize("layer", [None, 1])
@pytest.mark.parametrize("share_prompts", [True, False])
def test_the_vector_is_the_mean_over_the_response_at_its_layer(
    model: Path, layer: int | None, share_prompts: bool
) -> None:
    vectors = encoded(model, layer=layer, pooling="response", share_prompts=share_prompts)
    expected = torch.stack([oracle(model, conversation, layer) for conversation in CONVERSATIONS])
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-5)


def test_the_last_layer_has_no_norm_when_it_is_named(model: Path) -> None:
    """`hidden_states[2]` of two layers is normed in transformers; ours is what the layer itself gives."""
    assert not torch.allclose(encoded(model, layer=2), encoded(model))


def test_layers_after_the_one_that_is_named_are_not_computed(model: Path) -> None:
    encoder = load_encoder(str(model), EncoderOptions(layer=1))
    base = encoder._base  # type: ignore[attr-defined]
    assert len(base.layers) == 1


def test_what_a_prompt_shares_and_what_is_cut_leave_the_response(model: Path) -> None:
    whole = load_encoder(str(model), EncoderOptions(pooling="response", layer=1))
    length = len(whole.tokens(CONVERSATIONS[:1]).tokens[0])  # type: ignore[attr-defined]
    cut = encoded(model, CONVERSATIONS[:1], pooling="response", layer=1, max_length=length - 20, truncation="left")
    assert torch.isfinite(cut).all()
    # All that is left of the conversation is its response, read without most of its prompt: near, but not the same.
    vector = whole.encode(CONVERSATIONS[:1]).vectors
    assert 0 < float((cut - vector).norm() / vector.norm()) < 1
    none_left = encoded(model, CONVERSATIONS[:1], pooling="response", max_length=8, truncation="right")
    assert torch.isfinite(none_left).all()
    assert none_left.norm() > 0


def test_the_choice_is_part_of_the_fingerprint(model: Path) -> None:
    prints = [
        load_encoder(str(model), EncoderOptions(**options)).fingerprint
        for options in ({}, {"layer": 1}, {"layer": 2}, {"pooling": "response"}, {"pooling": "mean"})
    ]
    assert len({str(one) for one in prints}) == len(prints)
    assert "layer" not in prints[0]


@pytest.mark.parametrize("options", [{"layer": 1}, {"pooling": "response"}, {"layer": 1, "pooling": "mean"}])
def test_a_reward_model_keeps_what_its_head_reads_beside_another_layer(
    reward_model: Path, options: dict[str, Any]
) -> None:
    alone, both = load_encoder(str(reward_model)), load_encoder(str(reward_model), EncoderOptions(**options))
    assert both.dim == 2 * alone.dim
    assert alone.reference is not None
    assert both.reference is not None
    scores = alone.encode(CONVERSATIONS).vectors @ alone.reference
    torch.testing.assert_close(both.encode(CONVERSATIONS).vectors @ both.reference, scores, rtol=1e-4, atol=1e-5)


def test_states_of_several_layers_are_those_of_each(model: Path) -> None:
    encoder = load_layers(str(model), EncoderOptions(layer="auto"))
    assert encoder.depth == 2
    states = encoder.layer_states(CONVERSATIONS, [1, 2])
    assert set(states) == {(layer, pooling) for layer in (1, 2, None) for pooling in ("last", "response")}
    for (layer, pooling), vectors in states.items():
        torch.testing.assert_close(vectors, encoded(model, layer=layer, pooling=pooling), rtol=1e-4, atol=1e-5)
    again = encoder.layer_states(CONVERSATIONS[:2], [1])  # no hook is left behind
    torch.testing.assert_close(again[1, "last"], states[1, "last"][:2], rtol=1e-4, atol=1e-5)


def test_layers_that_are_not_there_are_refused(model: Path) -> None:
    with pytest.raises(EncoderError, match="has 2 layers, got `layer` 3"):
        load_encoder(str(model), EncoderOptions(layer=3))
    with pytest.raises(ConfigError, match="`layer` must be a whole number of 1 or more"):
        EncoderOptions(layer=0)
    with pytest.raises(EncoderError, match="'auto' is chosen on data"):
        load_encoder(str(model), EncoderOptions(layer="auto"))
    for options in ({"layer": 1}, {"pooling": "response"}):
        with pytest.raises(EncoderError, match="of language models"):
            load_encoder("minilm", EncoderOptions(**options))

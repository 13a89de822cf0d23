"""Tiny language models on disk, whose tokenizer reads letter by letter."""

from pathlib import Path
from typing import Any

import torch

SPECIAL = ("<|pad|>", "<|begin|>", "<|start|>", "<|end|>")
TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}"
    "<|start|>{{ turn['role'] }}\n{{ turn['content'] | trim }}<|end|>"
    "{% endfor %}"
)


def tokenizer(template: str = TEMPLATE, **settings: Any) -> Any:
    """Bytes as tokens, and four control tokens; the end of a turn is also the padding unless said otherwise."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: at for at, letter in enumerate([*letters, *SPECIAL])}
    found = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    names = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|end|>"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=found, additional_special_tokens=list(SPECIAL), **{**names, **settings}
    )
    fast.chat_template = template
    return fast


def save(folder: Path, kind: str = "reward", template: str = TEMPLATE, **config: Any) -> Path:
    """A random Llama of two layers: a "reward" model, a "causal" one, or a "sentence" encoder (BERT)."""
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    fast = tokenizer(template)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": len(fast),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": fast.pad_token_id,
    }
    if kind == "sentence":
        model: Any = BertModel(BertConfig(**sizes, **config))
        fast.cls_token, fast.sep_token = "<|begin|>", "<|end|>"
    else:
        llama = LlamaConfig(**{**sizes, "num_key_value_heads": 1, "num_labels": 1, "initializer_range": 0.3, **config})
        model = (LlamaForSequenceClassification if kind == "reward" else LlamaForCausalLM)(llama)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder

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
    """Bytes as tokens, one pair of them, and four control tokens; the end of a turn is also the padding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: at for at, letter in enumerate([*letters, "th", *SPECIAL])}
    found = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h")]))
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


def save_gguf(path: Path) -> Path:
    """The random causal model of `save` as a GGUF file."""
    import gguf
    from transformers import AutoModelForCausalLM

    folder = save(path.with_suffix(""), "causal")
    model = AutoModelForCausalLM.from_pretrained(folder)
    config, fast = model.config, tokenizer()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("gpt2")
    words = [word for word, _ in sorted(fast.get_vocab().items(), key=lambda entry: entry[1])]
    writer.add_token_list(words)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if word in SPECIAL else normal for word in words])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(fast.bos_token_id)
    writer.add_eos_token_id(fast.eos_token_id)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, values in model.state_dict().items():
        array = values.float().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for part, count in heads.items():
            if f"{part}.weight" in name:  # the format interleaves the halves of a head
                array = array.reshape(count, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        found = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(str(found), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

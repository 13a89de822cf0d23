"""Reward LLMs, and language models without a head: one hidden state, or their mean, for each conversation."""

import copy
import importlib.util
import itertools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lore.embedding.batches import Group, Padded, batches, common, groups
from lore.embedding.encoder import Encoded, Fingerprint
from lore.embedding.fingerprints import content_hash, library_versions, short_hash, tokenizer_hash
from lore.embedding.gguf import unpacked
from lore.embedding.onednn import can_pack, pack
from lore.embedding.options import EncoderOptions, Pooling, torch_dtype
from lore.embedding.tokens import ChatTokens, Conversation, LengthLimit, TokenizedBatch
from lore.errors import EncoderError, MissingExtra, first_line

_log = logging.getLogger(__name__)

_GPU_BATCH, _CPU_BATCH = 16_384, 2_048  # tokens; a CPU is busy with few, and more leave its cache
_LONGEST = 4_096  # tokens, where the model allows more and nothing was chosen
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}  # of a vector, relative to its length
_POOLING_NAMES = {"last": "last token", "response": "mean over the response"}  # in fingerprints
_PROBES: tuple[Conversation, ...] = (
    ((("user", "What is two and two?"),), (("assistant", "Four."),)),
    ((("user", "What is two and two?"),), (("assistant", "It is four, as anyone who counts to it will find."),)),
    ((("user", "Name a color."),), (("assistant", "Blue."),)),
)


@dataclass(frozen=True)
class _Head:
    """The linear map from a hidden state to the model's own score: weight `[dim]` and bias."""

    weight: Tensor
    bias: float


class LanguageModel:
    """A transformer that reads whole conversations through its chat template.

    The vector of a conversation is the hidden state after the final norm at its last attended token. It can be the mean
    over all tokens or over those of the response, and `layer` takes the states after that layer. A reward model's head
    is the `reference`. Loading it runs a probe: head times vector must be the model's own score, and a vector must not
    depend on what is encoded beside it; a model that fails is refused.

    Responses to one prompt share the prompt's key-value cache, where the model is causal, attends to everything before
    and passes the probe that way.
    """

    def __init__(self, name: str, options: EncoderOptions, *, is_reward_model: bool) -> None:
        options = replace(options, layer=None) if options.layer == "last" else options
        self._name, self._options = name, options
        if options.layer == "auto":
            raise EncoderError(
                f"encoder {name!r}: `layer` 'auto' is chosen on data by `lore train`; give a number here"
            )
        self._pooling = options.pooling or "last"
        if self._pooling == "first":
            raise EncoderError(
                f"encoder {name!r} reads from left to right; `pooling` must be 'last', 'mean' or 'response'"
            )
        self._model, tokenizer, missing = _loaded(name, options, is_reward_model=is_reward_model)
        self._head = self._found_head(missing) if is_reward_model else None
        if self._head is not None and (self._pooling != "last" or options.layer is not None):
            raise EncoderError(
                f"encoder {name!r} scores its last token after its last layer; `pooling` must be 'last', got "
                f"{self._pooling!r}, and `layer` is of models without a head"
            )
        self._chat = ChatTokens(tokenizer, name)
        config = self._model.config.get_text_config()
        most = getattr(config, "max_position_embeddings", None) or sys.maxsize
        self._limit = LengthLimit.of(name, options, maximum=most, usual=_LONGEST, truncation="error")
        self._batch_tokens = options.batch_tokens or (_GPU_BATCH if self._device.type == "cuda" else _CPU_BATCH)
        self.dim = int(config.hidden_size)
        self.reference: Tensor | None = None if self._head is None else self._head.weight
        self.fingerprint = self._fingerprint()
        self._base = self._model.base_model if is_reward_model else self._model
        if isinstance(options.layer, int):
            _cut_layers(self._base, options.layer, name)
        self._preamble = self._preamble_length()
        self._shares = False
        self._probe()

    # --- loading --------------------------------------------------------------------------------------------------

    def _found_head(self, missing: Sequence[str]) -> _Head:
        head = getattr(self._model, "score", None)
        if not isinstance(head, torch.nn.Linear) or head.out_features != 1:
            raise EncoderError(f"encoder {self._name!r} has no linear `score` head with one output; use a reward model")
        if any(key.startswith("score.") for key in missing):
            raise EncoderError(f"encoder {self._name!r} comes without the weights of its head; use a reward model")
        bias = 0.0 if head.bias is None else float(head.bias)
        return _Head(head.weight[0].detach().float().cpu(), bias)

    def _fingerprint(self) -> Fingerprint:
        tokenizer = self._chat.tokenizer
        path = Path(self._name)
        return {
            "encoder": path.name if path.exists() else self._name,
            "weights": content_hash(path) or str(getattr(self._model.config, "_commit_hash", None)),
            "tokenizer": tokenizer_hash(tokenizer),
            "template": short_hash(str(tokenizer.chat_template)),
            "pooling": _POOLING_NAMES.get(self._pooling, self._pooling),
            "max_length": self._limit.tokens,
            "on_long": self._limit.truncation,  # the name in all stores since the first
            "dtype": str(self._dtype).removeprefix("torch."),
            "storage": self._options.storage,
            **({} if self._options.layer is None else {"layer": self._options.layer}),
            **library_versions(),
        }

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._model.dtype
        return dtype

    @property
    def _device(self) -> torch.device:
        device: torch.device = self._model.device
        return device

    def _preamble_length(self) -> int:
        """Tokens that every conversation begins with, whatever it says."""
        first, _, second = self._chat.of(_PROBES)
        return common(first, second)

    # --- probes ---------------------------------------------------------------------------------------------------

    def _probe(self) -> None:
        tokens = self._chat.of(_PROBES)
        begins = self._begins(_PROBES, tokens, tokens)
        self._check_beginning(tokens[0])
        alone = torch.cat([self._encoded_batch([row], [begin]) for row, begin in zip(tokens, begins, strict=True)])
        if self._head is not None:
            self._check_head(self._head, tokens[0], alone[0])
        if not self._alike(alone, self._encoded_batch(tokens, begins)):
            raise EncoderError(
                f"encoder {self._name!r} fails its probe: a vector depends on what is encoded beside it; "
                "its implementation does not mask padding; use another encoder"
            )
        if self._options.device_map is None and can_pack(self._base):
            pack(self._base)
            if not self._alike(alone, self._encoded_batch(tokens, begins)):
                raise EncoderError(
                    f"encoder {self._name!r} fails its probe: its layers give other vectors through oneDNN; use another"
                    " `dtype`, such as bfloat16"
                )
        if self._options.share_prompts and _caches_everything(self._base, tokens[0], self._device):
            shared = min(common(tokens[0], tokens[1]), len(tokens[0]) - 1, len(tokens[1]) - 1)
            self._shares = shared > 0 and self._alike(alone[:2], self._encoded_group(tokens[:2], begins[:2], shared))
        if self._options.share_prompts and not self._shares:
            _log.warning("encoder %r does not allow responses to share a prompt; each is encoded whole", self._name)

    def _alike(self, first: Tensor, second: Tensor) -> bool:
        difference = (first - second).norm(dim=1)
        return bool((difference <= _TOLERANCE[self._dtype] * first.norm(dim=1)).all())

    def _check_beginning(self, tokens: list[int]) -> None:
        begin, end = (getattr(self._chat.tokenizer, f"{side}_token_id", None) for side in ("bos", "eos"))
        times = len(tokens) - len(list(itertools.dropwhile(begin.__eq__, tokens)))  # some begin every turn with it
        if begin is not None and begin != end and times > 1:
            raise EncoderError(
                f"encoder {self._name!r} fails its probe: its chat template begins a text {times} times; mend the "
                "template"
            )

    def _check_head(self, head: _Head, tokens: list[int], vector: Tensor) -> None:
        config = self._model.config.get_text_config()
        padding, config.pad_token_id = config.pad_token_id, None  # or a last token that is also padding is passed over
        ids = torch.tensor([tokens], device=self._device)
        with torch.inference_mode():
            score = float(self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 0])
        config.pad_token_id = padding
        ours = float(vector @ head.weight) + head.bias
        size = float(vector.norm() * head.weight.norm())
        if not abs(ours - score) <= _TOLERANCE[self._dtype] * (size + abs(score)):
            raise EncoderError(
                f"encoder {self._name!r} fails its probe: head times hidden state is {ours:.4f}, the model says "
                f"{score:.4f}; its hidden states cannot be trusted; use another encoder"
            )

    # --- encoding -------------------------------------------------------------------------------------------------

    def tokens(self, conversations: Sequence[Conversation]) -> TokenizedBatch:
        """Return the tokens of conversations within the limit, and which were too long."""
        return self._limit.fit(self._chat.of(conversations), self._chat.tokenizer.bos_token_id)

    def passes(self, tokens: Sequence[list[int]]) -> int:
        """Tokens that the model has to read for conversations, shared prompts once."""
        shared, alone = self._grouped(tokens)
        together = sum(group.shared + sum(len(tokens[row]) - group.shared for row in group.rows) for group in shared)
        return together + sum(len(tokens[row]) for row in alone)

    def encode(self, conversations: Sequence[Conversation]) -> Encoded:
        """One vector a conversation, in order; zeros for one that was dropped."""
        whole = self._chat.of(conversations)
        fitted = self._limit.fit(whole, self._chat.tokenizer.bos_token_id)
        begins = self._begins(conversations, whole, fitted.tokens)
        return Encoded(self._encoded(fitted.tokens, begins).to(torch_dtype(self._options.storage)), fitted.status)

    @property
    def depth(self) -> int:
        """Layers of the model; 0 if it does not show them."""
        layers = getattr(self._base, "layers", None)
        return len(layers) if isinstance(layers, torch.nn.ModuleList) else 0

    def layer_states(
        self, conversations: Sequence[Conversation], layers: Sequence[int]
    ) -> dict[tuple[int | None, Pooling], Tensor]:
        """Return vectors after several layers, and after the last one and its norm (None), in one pass.

        Args:
            conversations: to encode.
            layers: counted from 1.

        Returns:
            By layer and pooling, "last" and "response", `[conversations, dim]`; zeros for one that was dropped.
        """
        whole = self._chat.of(conversations)
        fitted = self._limit.fit(whole, self._chat.tokenizer.bos_token_id).tokens
        begins = self._response_begins(conversations, whole, fitted)
        kinds: tuple[Pooling, ...] = ("last", "response")
        vectors = {
            (layer, pooling): torch.zeros(len(fitted), self.dim) for layer in (*layers, None) for pooling in kinds
        }
        alone = [row for row in range(len(fitted)) if fitted[row]]
        for some in batches([len(fitted[row]) for row in alone], self._batch_tokens):
            rows = [alone[position] for position in some]
            batch = Padded.of([fitted[row] for row in rows], self._device)
            for layer, hidden in self._states(batch, layers).items():
                total, count = _summed(hidden, batch.mask, [begins[row] for row in rows])
                vectors[layer, "last"][rows] = _at_last(hidden, batch.mask)
                vectors[layer, "response"][rows] = (total / count).cpu()
        return vectors

    def _states(self, batch: Padded, layers: Sequence[int]) -> dict[int | None, Tensor]:
        """Hidden states `[batch, tokens, dim]` after some layers, and (None) after the norm that follows the last."""
        states: dict[int | None, Tensor] = {}

        def keep(layer: int) -> Callable[..., None]:
            def hook(_module: object, _inputs: object, output: Any) -> None:
                states[layer] = output if isinstance(output, Tensor) else output[0]

            return hook

        hooks = [self._base.layers[layer - 1].register_forward_hook(keep(layer)) for layer in layers]
        try:
            with torch.inference_mode():
                ends = self._base(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).last_hidden_state
        finally:
            for one in hooks:
                one.remove()
        return {**states, None: ends}

    def _begins(
        self, conversations: Sequence[Conversation], whole: Sequence[list[int]], fitted: Sequence[list[int]]
    ) -> list[int]:
        """Return the first token that is averaged over, in the tokens that were left by the limit."""
        if self._pooling != "response":
            return [0] * len(fitted)
        return self._response_begins(conversations, whole, fitted)

    def _response_begins(
        self, conversations: Sequence[Conversation], whole: Sequence[list[int]], fitted: Sequence[list[int]]
    ) -> list[int]:
        begins = self._chat.begins(conversations, whole)
        if self._limit.truncation == "left":
            begins = [begin - len(row) + len(rest) for begin, row, rest in zip(begins, whole, fitted, strict=True)]
        # Where nothing of the response is left, its last token stands for it.
        return [max(min(begin, len(rest) - 1), 0) for begin, rest in zip(begins, fitted, strict=True)]

    def _grouped(self, tokens: Sequence[list[int]]) -> tuple[list[Group], list[int]]:
        if self._shares:
            return groups(tokens, self._preamble)
        return [], [row for row in range(len(tokens)) if tokens[row]]

    def _encoded(self, tokens: Sequence[list[int]], begins: Sequence[int]) -> Tensor:
        vectors = torch.zeros(len(tokens), self.dim)
        shared, alone = self._grouped(tokens)
        for batch in batches([len(tokens[row]) for row in alone], self._batch_tokens):
            rows = [alone[row] for row in batch]
            vectors[rows] = self._encoded_batch([tokens[row] for row in rows], [begins[row] for row in rows])
        for group in shared:
            rows = group.rows
            vectors[rows] = self._encoded_group(
                [tokens[row] for row in rows], [begins[row] for row in rows], group.shared
            )
        return vectors

    def _encoded_batch(self, tokens: Sequence[list[int]], begins: Sequence[int]) -> Tensor:
        """Vectors `[batch, dim]` of whole conversations, whose averages begin at some token each."""
        batch = Padded.of(tokens, self._device)
        with torch.inference_mode():
            hidden = self._base(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).last_hidden_state
        if self._pooling == "last":
            return _at_last(hidden, batch.mask)
        total, count = _summed(hidden, batch.mask, begins)
        return (total / count).cpu()

    def _encoded_group(self, tokens: Sequence[list[int]], begins: Sequence[int], shared: int) -> Tensor:
        """Vectors `[rows, dim]` of conversations whose first tokens, `shared` of them, are read once."""
        prefix = torch.tensor([tokens[0][:shared]], device=self._device)
        vectors = torch.empty(len(tokens), self.dim)
        rest = [row[shared:] for row in tokens]
        with torch.inference_mode():
            first = self._base(input_ids=prefix, use_cache=True)
            # Padding may be a share of all that is read: about half of the prefix for each of a few batches.
            for rows in batches([len(row) for row in rest], self._batch_tokens, beside=shared // 2):
                batch = Padded.of([rest[row] for row in rows], self._device)
                mask = torch.cat([batch.mask.new_ones(len(rows), shared), batch.mask], dim=1)
                cache = copy.deepcopy(first.cache)
                cache.batch_repeat_interleave(len(rows))
                hidden = self._base(
                    input_ids=batch.ids, attention_mask=mask, cache=cache, use_cache=True
                ).last_hidden_state
                if self._pooling == "last":
                    vectors[rows] = _at_last(hidden, batch.mask)
                    continue
                total, count = _summed(hidden, batch.mask, [begins[row] - shared for row in rows])
                before = first.last_hidden_state[0].float()
                for position, row in enumerate(rows):  # a prompt that is averaged over, or responses that begin alike
                    if begins[row] < shared:
                        total[position] += before[begins[row] :].sum(0)
                        count[position] += shared - begins[row]
                vectors[rows] = (total / count).cpu()
        return vectors


def _summed(hidden: Tensor, mask: Tensor, begins: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return sums of hidden states `[batch, tokens, dim]` from a token on, and over how many, `[batch, 1]`."""
    position = torch.arange(hidden.shape[1], device=hidden.device)
    averaged = mask * (position >= torch.tensor(begins, device=hidden.device)[:, None])
    return (hidden * averaged[:, :, None]).sum(1).float(), averaged.sum(1, keepdim=True)


def _cut_layers(base: Any, layer: int, name: str) -> None:
    """Remove the layers after one, and the norm after the last."""
    layers = getattr(base, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList) or not hasattr(base, "norm"):
        raise EncoderError(f"encoder {name!r} does not show its layers; leave `layer` out")
    if layer > len(layers):
        raise EncoderError(f"encoder {name!r} has {len(layers)} layers, got `layer` {layer}; lower it")
    base.layers = layers[:layer]
    base.norm = torch.nn.Identity()
    base.config.get_text_config().num_hidden_layers = layer


def _at_last(hidden: Tensor, mask: Tensor) -> Tensor:
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, mask.sum(1) - 1].float().cpu()


def _caches_everything(base: Any, tokens: list[int], device: torch.device) -> bool:
    """Return True if the model keeps keys and values of all tokens, layer by layer, without windows or states."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    with torch.inference_mode():
        cache = getattr(base(input_ids=torch.tensor([tokens], device=device), use_cache=True), "cache", None)
    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)


def _loaded(name: str, options: EncoderOptions, *, is_reward_model: bool) -> tuple[Any, Any, list[str]]:
    """Model, tokenizer, and which weights were not in its files."""
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, GgufConfig

    where, which = split_name(name)
    local = int(os.environ.get("LOCAL_RANK", "0"))  # one process a device under `torchrun`
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    dtype = (
        torch_dtype(options.dtype) if options.dtype else (torch.bfloat16 if device.type == "cuda" else torch.float32)
    )
    arguments: dict[str, Any] = {"dtype": dtype}
    if options.device_map is not None:
        arguments["device_map"] = options.device_map
    attention = options.attention or _fastest_attention(device, dtype)
    if attention is not None:
        arguments["attn_implementation"] = attention
    kind: Callable[..., Any] = (AutoModelForSequenceClassification if is_reward_model else AutoModel).from_pretrained
    try:
        if "gguf_file" in which and (folder := unpacked(Path(where, which["gguf_file"]))):
            where, which = str(folder), {}
        if "gguf_file" in which:
            arguments["quantization_config"] = GgufConfig(dequantize=True)  # now, and not at every product
        else:
            arguments["use_safetensors"] = True
        tokenizer = AutoTokenizer.from_pretrained(where, **which)
        model, info = kind(where, output_loading_info=True, **arguments, **which)
    except (OSError, ValueError, ImportError) as error:
        reason = first_line(error)
        raise EncoderError(f"encoder {name!r} cannot be loaded ({reason}); give a folder, or 'minilm'") from None
    model = model.eval()
    return (model if options.device_map else model.to(device)), tokenizer, list(info["missing_keys"])


def split_name(name: str) -> tuple[str, dict[str, str]]:
    """Folder or id, and the arguments that say which of its files or revisions: `model.gguf`, `id@revision`."""
    if name.endswith(".gguf"):
        if importlib.util.find_spec("gguf") is None:
            raise MissingExtra("gguf", "gguf")
        return str(Path(name).parent), {"gguf_file": Path(name).name}
    where, _, revision = name.partition("@")
    return (where, {"revision": revision}) if revision and not Path(name).exists() else (name, {})


def _fastest_attention(device: torch.device, dtype: torch.dtype) -> str | None:
    """Flash attention where it is installed and can be used; otherwise what `transformers` takes by itself."""
    installed = importlib.util.find_spec("flash_attn") is not None
    return "flash_attention_2" if installed and device.type == "cuda" and dtype != torch.float32 else None

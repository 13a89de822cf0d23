"""Embedding beside a loop over one conversation at a time, and opening a large store.

A random Llama of the shape of SmolLM2-135M, float32: eight responses of about 60 tokens to each prompt of about 300,
and independent conversations of mixed length. Tokens are bytes, as only their number matters.

python benchmarks/embedding.py [shared|mixed|open]
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny_models
from lore.embedding import Embeddings, EncoderOptions, load_encoder
from lore.embedding.encoder import Encoded
from lore.embedding.shards import StoreFolder
from lore.embedding.tokens import Conversation

SMOLLM2: dict[str, Any] = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49_152, "max_position_embeddings": 2_048, "initializer_range": 0.02,
}  # fmt: skip
REPEATS = 3


def text(length: int, rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=length)).strip() or "x"


def shared(rng: random.Random) -> list[Conversation]:
    """Eight responses to each of four prompts."""
    prompts = [text(rng.randint(250, 350), rng) for _ in range(4)]
    return [
        ((("user", prompt),), (("assistant", text(rng.randint(45, 75), rng)),)) for prompt in prompts for _ in range(8)
    ]


def mixed(rng: random.Random) -> list[Conversation]:
    """Sixty-four prompts, one response each, of very different lengths."""
    return [
        ((("user", text(rng.randint(5, 100), rng)),), (("assistant", text(rng.randint(5, 200), rng)),))
        for _ in range(64)
    ]


def one_at_a_time(folder: Path, conversations: Sequence[Conversation]) -> Callable[[], torch.Tensor]:
    """The loop: template to text, text to tokens, the whole model, its last hidden state at the last token."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def loop() -> torch.Tensor:
        found = []
        for sides in conversations:
            turns = [{"role": role, "content": content} for side in sides for role, content in side]
            rendered = tokenizer.apply_chat_template(turns, tokenize=False)
            ids = tokenizer(rendered, add_special_tokens=False, return_tensors="pt")
            with torch.no_grad():
                found.append(model(**ids, output_hidden_states=True).hidden_states[-1][0, -1])
        return torch.stack(found)

    return loop


def timed(jobs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each, all in turn, so that what else the machine does meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(REPEATS):
        for name, job in jobs.items():
            begin = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - begin)
    return {name: median(values) for name, values in seconds.items()}


def against_the_loop(conversations: list[Conversation], folder: Path) -> dict[str, float]:
    loop = one_at_a_time(folder, conversations)
    encoder: Any = load_encoder(str(folder))
    whole: Any = load_encoder(str(folder), EncoderOptions(share_prompts=False))
    half: Any = load_encoder(str(folder), EncoderOptions(dtype="bfloat16"))
    difference = (encoder.encode(conversations).vectors - loop()).abs().max()
    seconds = timed(
        {
            "loop": loop,
            "ours": lambda: encoder.encode(conversations),
            "ours, prompts not shared": lambda: whole.encode(conversations),
            "ours, bfloat16": lambda: half.encode(conversations),
        }
    )
    tokens = encoder.tokens(conversations).tokens
    lengths = [len(row) for row in tokens]
    given: list[int] = []
    hook = encoder._base.register_forward_pre_hook(
        lambda _, __, named: given.append(named["input_ids"].numel()), with_kwargs=True
    )
    encoder.encode(conversations)
    hook.remove()
    return {
        "tokens": sum(lengths),
        "tokens_per_second_loop": round(sum(lengths) / seconds["loop"]),
        "tokens_per_second": round(sum(lengths) / seconds["ours"]),
        "times_the_loop": round(seconds["loop"] / seconds["ours"], 2),
        "times_the_loop_without_sharing": round(seconds["loop"] / seconds["ours, prompts not shared"], 2),
        "times_the_loop_in_bfloat16": round(seconds["loop"] / seconds["ours, bfloat16"], 2),
        "padding": round(1 - encoder.passes(tokens) / sum(given), 4),
        "tokens_saved": round(1 - encoder.passes(tokens) / sum(lengths), 3),
        "largest_difference": float(difference),
    }


def opening(folder: Path) -> dict[str, float]:
    """A store of a million rows of 384 numbers: seconds and private memory to open it, then to read some rows."""

    class Fixed:
        dim = 384

        def __init__(self) -> None:
            self.reference: Tensor | None = None
            self.fingerprint: dict[str, str | int] = {"encoder": "benchmark"}

        def encode(self, conversations: Sequence[Any]) -> Encoded:
            return Encoded.whole(torch.empty(len(conversations), 384))

    rng = np.random.default_rng(0)
    store = StoreFolder(folder)
    store.begin(Fixed())
    for _ in range(10):
        keys = [row.tobytes() for row in rng.integers(0, 256, (100_000, 16), dtype=np.uint8)]
        store.append(keys, Encoded.whole(torch.randn(100_000, 384)))
    begin = time.perf_counter()
    store.merge()
    merging = time.perf_counter() - begin
    fresh = subprocess.run([sys.executable, __file__, "opened", str(folder)], check=True, capture_output=True)
    return {"seconds_to_merge": round(merging, 2), **json.loads(fresh.stdout)}


def opened(folder: Path) -> dict[str, float]:
    """What a process that does nothing else needs to open a store."""
    before, begin = anonymous(), time.perf_counter()
    found = Embeddings.load(folder)
    seconds, memory = time.perf_counter() - begin, anonymous() - before
    begin = time.perf_counter()
    found.vectors[torch.randint(len(found), (1_000,))].sum()
    return {
        "rows": len(found),
        "seconds_to_open": round(seconds, 2),
        "private_mib": round(memory / 2**20, 1),
        "seconds_for_1000_rows_at_random": round(time.perf_counter() - begin, 3),
    }


def anonymous() -> int:
    """Bytes of memory of this process that are not backed by a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not tell RssAnon")


def main() -> None:
    if sys.argv[1:2] == ["opened"]:
        print(json.dumps(opened(Path(sys.argv[2]))))
        return
    wanted = sys.argv[1:] or ["shared", "mixed", "open"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = tiny_models.save(Path(temporary) / "model", **SMOLLM2)
        for name in wanted:
            if name == "open":
                found = opening(Path(temporary) / "store")
            else:
                found = against_the_loop({"shared": shared, "mixed": mixed}[name](random.Random(0)), folder)
            print(json.dumps({"job": name, **found}))


if __name__ == "__main__":
    main()

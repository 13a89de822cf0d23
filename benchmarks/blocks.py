"""Compares what may stand beside MiniLM: layers, templates, scales and the difference of response and prompt.

Pooled accuracy on splits that docs/results reports nothing else of; the gain in points over MiniLM alone.

LORE_DATA=/path/to/data python benchmarks/blocks.py SET [SPLITS]
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import SETS
from torch import Tensor

import lore
from lore.data.preferences import Preferences
from lore.embedding import Embeddings, EncoderOptions
from lore.embedding.load import load_layers
from lore.embedding.sentence import SentenceEncoder
from lore.evaluation.metrics import ProjectedPairs, correct

LAYERS = (10, 15, 20, 25)
FIRST_SEED = 20
PLAIN = (
    "{% for turn in messages %}{{ '\n' if not loop.first }}{{ turn.role.capitalize() }}: {{ turn.content }}"
    "{% endfor %}{% if add_generation_prompt %}\nAssistant: {% endif %}"
)


def varied(vectors: Tensor, spread: float) -> Tensor:
    """Return centered vectors whose numbers vary by `spread`."""
    centered = vectors - vectors.mean(0)
    return centered * (spread / float(centered.pow(2).mean().sqrt()))


def features(preferences: Preferences) -> dict[str, Tensor]:
    """Return what is compared, by name, `[conversations, dim]` each."""
    conversations = [preferences.conversation(row) for row in range(preferences.rows)]
    sentence = SentenceEncoder("minilm", EncoderOptions(), difference=True).encode(conversations).vectors
    half = (sentence.shape[1] - 1) // 3
    minilm = torch.cat([sentence[:, : 2 * half], sentence[:, -1:]], dim=1)
    difference = sentence[:, 2 * half : 3 * half]
    model = load_layers("smollm2", EncoderOptions())
    chat = model.layer_states(conversations, LAYERS)
    tokenizer: Any = model._chat.tokenizer
    tokenizer.chat_template = PLAIN
    plain = model.layer_states(conversations, LAYERS)
    spread = float((minilm - minilm.mean(0)).pow(2).mean().sqrt())

    def beside(*blocks: Tensor, scale: float = 1.0, first: tuple[Tensor, ...] = (minilm,)) -> Tensor:
        return torch.cat([*first, *(varied(block, scale * spread) for block in blocks)], dim=1)

    both = (minilm, difference)
    return {
        "minilm": minilm,
        "difference": torch.cat(both, dim=1),
        **{f"layer {layer}": beside(chat[layer, "response"]) for layer in (*LAYERS, None)},
        "layer 20, last token": beside(chat[20, "last"]),
        "layer 20, plain turns": beside(plain[20, "response"]),
        "layer 20, twice as wide": beside(chat[20, "response"], scale=2),
        "layer 20 without MiniLM": beside(chat[20, "response"], first=()),
        "difference and layer 20": beside(chat[20, "response"], first=both),
        "difference, layers 15 and 25": beside(chat[15, "response"], chat[25, "response"], first=both),
    }


def accuracies(preferences: Preferences, vectors: Tensor, count: int) -> dict[str, np.ndarray]:
    """Return the accuracy of the pooled model on each split, by setting."""
    keys = np.frombuffer(b"".join(preferences.conversation_keys()), dtype="S16")
    table = Embeddings(vectors, keys, torch.zeros(len(vectors), dtype=torch.uint8), {}, None)
    pairs = lore.Pairs.from_embeddings(preferences, table)
    measured: dict[str, list[float]] = {"seen_test": [], "unseen_test": []}
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        parts = lore.split(pairs, seed=seed)
        basis = lore.fit_basis(parts.seen_train, lore.FitConfig(rank=1)).basis
        for setting, training in (("seen_test", parts.seen_train), ("unseen_test", parts.unseen_shots)):
            test = parts.parts()[setting]
            right = correct(test, ProjectedPairs(test, basis).margins(lore.fit_weights(training, basis)))
            measured[setting].append(float(right.mean()))
    return {setting: np.array(values) for setting, values in measured.items()}


def main(name: str, count: int) -> None:
    preferences = lore.load(Path(os.environ["LORE_DATA"]) / SETS[name])
    print(f"**{name}**, {count} splits\n\n| features | seen users | new users |\n|---|---|---|")
    first: dict[str, np.ndarray] = {}
    for label, vectors in features(preferences).items():
        measured = accuracies(preferences, vectors, count)
        first = first or measured
        gains = [100 * (values - first[setting]) for setting, values in measured.items()]
        cells = [f"{gain.mean():+.1f} ({int((gain > 0).sum())} of {count})" for gain in gains]
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 6)

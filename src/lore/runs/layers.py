"""`layer="auto"`: the layer and the pooling of a language model that predict held-out groups best."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lore.data.preferences import Preferences
from lore.embedding.load import block_names, language_models, load_encoder, load_layers
from lore.embedding.options import EncoderOptions, Pooling
from lore.embedding.tokens import Conversation
from lore.errors import ConfigError, DataError
from lore.fitting.config import FitConfig
from lore.fitting.fit import fit_basis
from lore.pairs.table import Pairs
from lore.progress import Progress
from lore.runs.config import TrainConfig
from lore.runs.data import LAYER_FORMAT, all_pairs, with_chosen_layer, with_time_decay
from lore.runs.folder import RunFolder
from lore.runs.splits import Unembedded, new_split

_SAMPLE = 2_000  # conversations
_SHARES = (1 / 3, 1 / 2, 2 / 3, 5 / 6)  # of the layers; and the end
_AT_ONCE = 512  # conversations between two reports of progress


@dataclass(frozen=True)
class LayerScore:
    """Score of one layer and pooling.

    Attributes:
        layer: after which hidden states are taken; None is after the last one and its norm.
        pooling: "last" or "response".
        log_loss: of the pooled model on held-out groups of the training part.
    """

    layer: int | None
    pooling: Pooling
    log_loss: float


@dataclass(frozen=True)
class LayerChoice:
    """A choice of layer and pooling, and what it was made from.

    Attributes:
        scores: of all that were tried.
        conversations: that they were tried on.
    """

    scores: tuple[LayerScore, ...]
    conversations: int

    @property
    def best(self) -> LayerScore:
        """The choice that predicts best."""
        return min(self.scores, key=lambda score: score.log_loss)

    def to_json(self) -> dict[str, Any]:
        """Return the choice as JSON values."""
        scores = [{"layer": one.layer, "pooling": one.pooling, "log_loss": one.log_loss} for one in self.scores]
        best = self.best
        return {
            "layer": best.layer,
            "pooling": best.pooling,
            "conversations": self.conversations,
            "scores": scores,
        }


def with_layer(preferences: Preferences, config: TrainConfig, folder: RunFolder, progress: Progress) -> TrainConfig:
    """Return the arguments of a run with the layer that it has chosen, or chooses now, where that is "auto".

    Raises:
        ConfigError: the encoder is not one language model, alone or beside others.
    """
    if config.encoding.layer != "auto":
        return config
    if not folder.layers.exists():
        LAYER_FORMAT.write(folder.layers, choose_layer(preferences, config, progress).to_json())
    return with_chosen_layer(config, folder)


def choose_layer(preferences: Preferences, config: TrainConfig, progress: Progress) -> LayerChoice:
    """Choose by the pooled model's log loss on held-out groups of a sample of the training part.

    What stands beside the language model takes part, each block at the same mean square.

    Args:
        preferences: of the run.
        config: its arguments.
        progress: told of what has been encoded.

    Raises:
        ConfigError: the encoder is not one language model, alone or beside others.
    """
    if not isinstance(config.encoder, str) or len(language_models(config.encoder)) != 1:
        raise ConfigError(
            f"`layer` 'auto' is for one language model, alone or beside others, got {config.encoder_name!r}; "
            "give a number"
        )
    name = language_models(config.encoder)[0]
    pairs, rows = _sample(preferences, config)
    conversations = [preferences.conversation(row) for row in rows.tolist()]
    others = [one for one in block_names(config.encoder) if one != name]
    plain = EncoderOptions(dtype=config.encoding.dtype, batch_tokens=config.encoding.batch_tokens)
    blocks = [load_encoder(one, plain, preferences).encode(conversations).vectors for one in others]
    scores = [
        LayerScore(layer, pooling, _log_loss(pairs, rows, [*blocks, vectors], config.seed))
        for (layer, pooling), vectors in _all_states(name, config.encoding, conversations, progress).items()
    ]
    return LayerChoice(tuple(scores), len(rows))


def _sample(preferences: Preferences, config: TrainConfig) -> tuple[Pairs, Tensor]:
    """Return training pairs between at most 2,000 rows, whole groups at a time, and these rows of the table."""
    unembedded = Unembedded.of(preferences)
    train = new_split(all_pairs(with_time_decay(preferences, config), unembedded, config), config, 0).seen_train
    sides = [train.chosen] if train.rejected is None else [train.chosen, train.rejected]
    used = torch.cat(sides).unique()
    groups = train.group[used]
    order = np.random.default_rng(config.seed).permutation(groups.unique().numpy())
    counts = torch.bincount(groups, minlength=int(groups.max()) + 1).numpy()[order]
    taken = order[: max(int(np.searchsorted(counts.cumsum(), _SAMPLE, side="right")), 3)]
    rows = used[torch.isin(groups, torch.from_numpy(taken))]
    inside = torch.stack([torch.isin(side, rows) for side in sides]).all(0)
    return train.select(inside), rows


def _all_states(
    name: str, options: EncoderOptions, conversations: Sequence[Conversation], progress: Progress
) -> dict[tuple[int | None, Pooling], Tensor]:
    """Return the vectors of all layers and poolings that are tried, `[conversations, dim]` each."""
    model = load_layers(name, options)
    layers = sorted({max(round(share * model.depth), 1) for share in _SHARES} - {model.depth} if model.depth else ())
    parts = []
    for begin in range(0, len(conversations), _AT_ONCE):
        progress("choosing a layer", begin, len(conversations))
        parts.append(model.layer_states(conversations[begin : begin + _AT_ONCE], layers))
    progress("choosing a layer", len(conversations), len(conversations))
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _log_loss(pairs: Pairs, rows: Tensor, blocks: Sequence[Tensor], seed: int) -> float:
    """Return the log loss of the pooled model on held-out groups, at the strength that is best there."""
    centered = [block.float() - block.float().mean(0) for block in blocks]
    joined = torch.cat([block / block.pow(2).mean().sqrt().clamp(min=1e-12) for block in centered], dim=1)
    vectors = torch.zeros(len(pairs.vectors), joined.shape[1])
    vectors[rows] = joined
    validation = fit_basis(replace(pairs, vectors=vectors).compact(), FitConfig(rank=1, seed=seed)).validation
    if validation is None:
        raise DataError("too few groups to choose a layer by; give `layer` a number")
    return validation

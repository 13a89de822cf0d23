"""Batches of token lists: within a budget, of like lengths, and with what a prompt's responses have in common once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_WASTE = 0.05  # share of padding in a batch, at most
_MIN_SHARED, _MIN_BEYOND = (
    16,
    8,
)  # tokens in common, and beyond the preamble, from which they are worth a pass of their own


def batches(lengths: Sequence[int], budget: int, beside: int = 0) -> Iterator[list[int]]:
    """Positions in batches of like lengths: at most `budget` tokens and 5 % padding each, at least one row.

    Longest first, so that what does not fit into memory fails at once.

    Args:
        lengths: tokens of each row.
        budget: tokens of a batch at most, with padding.
        beside: tokens that are read for a batch besides, of which padding may be a share too.
    """
    batch: list[int] = []
    tokens = 0
    for position in sorted(range(len(lengths)), key=lambda index: lengths[index], reverse=True):
        if batch:
            padded = (len(batch) + 1) * lengths[batch[0]]
            if padded > budget or padded - tokens - lengths[position] > _WASTE * (padded + beside):
                yield batch
                batch, tokens = [], 0
        batch.append(position)
        tokens += lengths[position]
    if batch:
        yield batch


@dataclass(frozen=True)
class Padded:
    """Token ids and their mask, `[batch, tokens]` each, padded at the end."""

    ids: Tensor
    mask: Tensor

    @classmethod
    def of(cls, tokens: Sequence[Sequence[int]], device: torch.device) -> "Padded":
        """From lists of tokens, on a device."""
        rows = [torch.tensor(row, dtype=torch.long) for row in tokens]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        return cls(ids.to(device), mask.long().to(device))


@dataclass(frozen=True)
class Group:
    """Conversations that begin alike.

    Attributes:
        shared: how many tokens they have in common at the beginning.
        rows: their positions.
    """

    shared: int
    rows: list[int]


def groups(tokens: Sequence[list[int]], preamble: int) -> tuple[list[Group], list[int]]:
    """Conversations that share a beginning worth a pass of its own, and the positions of all others.

    Neighbours in the order of their tokens have the most in common, so one pass over that order finds the groups.

    Args:
        tokens: of each conversation; those without any are left out.
        preamble: tokens that all conversations begin with, which alone make no group.
    """
    result: list[Group] = []
    for index in sorted((index for index in range(len(tokens)) if tokens[index]), key=lambda index: tokens[index]):
        if result:
            last = result[-1]
            alike = min(common(tokens[last.rows[-1]], tokens[index]), last.shared, len(tokens[index]) - 1)
            beyond_preamble = alike - preamble
            # One more may shorten what the group shares, unless that costs more than it saves.
            if (
                alike >= _MIN_SHARED
                and beyond_preamble >= _MIN_BEYOND
                and (last.shared - alike) * (len(last.rows) - 1) <= beyond_preamble
            ):
                result[-1] = Group(alike, [*last.rows, index])
                continue
        result.append(Group(len(tokens[index]) - 1, [index]))
    return [group for group in result if len(group.rows) > 1], [
        group.rows[0] for group in result if len(group.rows) == 1
    ]


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of tokens that two lists begin with alike."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))

"""The small problems of many users, padded and solved side by side in float64."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lore.solvers.objective import pair_curvature, pair_loss, pair_slope

BLOCK_PAIRS = 65_536  # padded pairs in a block: 4 MB for each eight columns

DAMPING = 1e-13  # of the Hessian's trace, added to its diagonal


@dataclass(frozen=True)
class UserProblems:
    """The part of the users' problems that does not depend on the basis: who chose, and what each choice counts.

    Attributes:
        user: row of the weights, `[pairs]`.
        label: probability that chosen is preferred, `[pairs]`.
        share: what each pair counts in its user's loss, `[pairs]`.
        users: number of users, with or without pairs.
        temperature: of the link.
    """

    user: Tensor
    label: Tensor
    share: Tensor
    users: int
    temperature: float

    @cached_property
    def _layout(self) -> list["_PaddedIndex"]:
        return list(_padded_indices(self))

    def blocks(self, projected: Tensor, offset: Tensor | None) -> Iterator["PaddedBatch"]:
        """Yield the users in blocks, with their pairs in coordinates of a basis.

        Args:
            projected: differences in coordinates of the basis, `[pairs, columns]`.
            offset: margin that does not depend on the weights, `[pairs]` (the population's, for `gaussian`).
        """
        for layout in self._layout:
            flat = layout.pair.flatten()
            yield PaddedBatch(
                users=layout.users,
                projected=projected.index_select(0, flat).double().view(*layout.pair.shape, projected.shape[1]),
                offset=torch.zeros_like(layout.share) if offset is None else offset[layout.pair].double(),
                label=layout.label,
                share=layout.share,
                temperature=self.temperature,
            )


@dataclass(frozen=True)
class _PaddedIndex:
    """Users with about equally many pairs, padded to `[users of the block, pairs of a user]`; padding has share 0."""

    users: Tensor
    pair: Tensor
    label: Tensor
    share: Tensor


def _padded_indices(problems: UserProblems) -> Iterator[_PaddedIndex]:
    """Blocks of users of similar size; users without pairs are left out."""
    order = torch.argsort(problems.user, stable=True)
    pairs = torch.bincount(problems.user, minlength=problems.users)
    first = pairs.cumsum(0) - pairs
    ranked = torch.argsort(pairs, stable=True)
    ranked = ranked[pairs[ranked] > 0]
    sizes = pairs[ranked].tolist()
    start = 0
    while start < len(sizes):
        stop = start + 1
        # At most twice the smallest user of the block, so that at most half of a block is padding.
        while stop < len(sizes) and sizes[stop] <= 2 * sizes[start] and (stop + 1 - start) * sizes[stop] <= BLOCK_PAIRS:
            stop += 1
        users = ranked[start:stop]
        position = torch.arange(sizes[stop - 1], device=order.device)
        real = position < pairs[users][:, None]
        pair = order[torch.where(real, first[users][:, None] + position, first[users][:, None])]
        share = torch.where(real, problems.share[pair].double(), 0.0)
        yield _PaddedIndex(users, pair, problems.label[pair].double(), share)
        start = stop


@dataclass(frozen=True)
class PaddedBatch:
    """The problems of some users in float64: arrays over `[users of the block, pairs of a user]`."""

    users: Tensor
    projected: Tensor
    offset: Tensor
    label: Tensor
    share: Tensor
    temperature: float

    @property
    def has_few_pairs(self) -> bool:
        """True if users have fewer pairs than columns."""
        return self.projected.shape[1] < self.projected.shape[2]

    @cached_property
    def kernel(self) -> Tensor:
        """Inner products of the pairs, `[users, pairs, pairs]`."""
        return self.projected @ self.projected.transpose(1, 2)

    def margins(self, weights: Tensor) -> Tensor:
        """Return margins `[users, pairs]` under weights `[users, columns]`."""
        return (self.projected @ weights[:, :, None]).squeeze(2) + self.offset

    def loss(self, margin: Tensor) -> Tensor:
        """Return each user's loss, `[users]`, at margins `[users, pairs]`."""
        return (self.share * pair_loss(margin, self.label, self.temperature)).sum(dim=1)

    def slope(self, margin: Tensor) -> Tensor:
        """Return derivatives of the losses by the margins, `[users, pairs]`."""
        return self.share * pair_slope(margin, self.label, self.temperature)

    def gradient(self, margin: Tensor) -> Tensor:
        """Return gradients of the losses by the weights, `[users, columns]`, at margins `[users, pairs]`."""
        return (self.slope(margin)[:, None, :] @ self.projected).squeeze(1)

    def solve(self, margin: Tensor, diagonal: Tensor, right: Tensor) -> Tensor:
        """Solutions `[users, columns, k]` of (Hessian of the loss + diagonal) x = right, for positive diagonals.

        With fewer pairs than columns by the matrix inversion lemma, in a system of the size of the pairs.
        """
        _, pairs, columns = self.projected.shape
        curvature = self.share * pair_curvature(margin, self.temperature)
        scaled = self.projected * curvature.sqrt()[:, :, None]
        # Where margins are in the thousands the diagonal would be lost beside the Hessian, and that may be singular.
        diagonal = diagonal + DAMPING * scaled.square().sum(dim=(1, 2))[:, None]
        if pairs >= columns:
            return torch.linalg.solve(scaled.transpose(1, 2) @ scaled + torch.diag_embed(diagonal), right)
        across = (scaled / diagonal[:, None, :]).transpose(1, 2)
        inner = scaled @ across + torch.eye(pairs, dtype=diagonal.dtype, device=diagonal.device)
        free = right / diagonal[:, :, None]
        return free - across @ torch.linalg.solve(inner, scaled @ free)

    def only(self, users: Tensor) -> "PaddedBatch":
        """Return the users in `users`, positions in this block."""
        return PaddedBatch(
            users=self.users[users],
            projected=self.projected[users],
            offset=self.offset[users],
            label=self.label[users],
            share=self.share[users],
            temperature=self.temperature,
        )

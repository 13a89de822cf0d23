"""Products of a table of embeddings with few columns: the one place where fits read all of it.

Both are independent over rows, or a sum over them. A table of half precision, or one that is mapped from a file, is
widened a block of rows at a time.
"""

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK_ROWS = 1_024  # of embeddings in one block of a product


def product(vectors: Tensor, columns: Tensor) -> Tensor:
    """Return `vectors @ columns`, `[rows, k]`, for a table `[rows, dim]` and columns `[dim, k]`, in their dtype."""
    # A contiguous transpose makes the product of a tall and a skinny matrix about twice as fast on CPUs.
    transposed = columns.T.contiguous()
    if vectors.dtype == columns.dtype:
        return functional.linear(vectors, transposed)
    blocks = vectors.split(_BLOCK_ROWS)
    return torch.cat([functional.linear(block.to(columns.dtype), transposed) for block in blocks])


def adjoint(vectors: Tensor, values: Tensor) -> Tensor:
    """Return `vectors.T @ values`, `[dim, k]`, for a table `[rows, dim]` and values `[rows, k]`, in their dtype.

    Each block of rows stays in the cache: two thirds of the time that one product over all rows takes on CPUs.
    """
    return _transposed_adjoint(vectors, values).T


def _transposed_adjoint(vectors: Tensor, values: Tensor) -> Tensor:
    blocks, rest = divmod(len(vectors), _BLOCK_ROWS)
    if vectors.dtype != values.dtype:
        total = torch.zeros(values.shape[1], vectors.shape[1], dtype=values.dtype, device=values.device)
        for part, block in zip(values.split(_BLOCK_ROWS), vectors.split(_BLOCK_ROWS), strict=True):
            total.addmm_(part.T, block.to(values.dtype))
        return total
    if blocks == 0 or values.shape[1] > _BLOCK_ROWS:  # for so many columns the products of the blocks would take room
        return values.T @ vectors
    whole = blocks * _BLOCK_ROWS
    stacked = values[:whole].view(blocks, _BLOCK_ROWS, -1).transpose(1, 2)
    total = torch.bmm(stacked, vectors[:whole].view(blocks, _BLOCK_ROWS, -1)).sum(dim=0)
    return total + values[whole:].T @ vectors[whole:] if rest else total

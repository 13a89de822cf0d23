import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from builders import random_pairs
from lore.fitting.fit import FitConfig, fit_basis
from lore.solvers.products import adjoint, product

READS = {torch.matmul, torch.mm, torch.mv, torch.bmm, torch.Tensor.__matmul__, torch.Tensor.matmul, torch.Tensor.mm}
READS |= {torch.nn.functional.linear, torch.Tensor.addmm_, torch.Tensor.addmv_, torch.einsum, torch.Tensor.mv}


@pytest.mark.parametrize("rows", [1, 1_023, 1_024, 2_500])
@pytest.mark.parametrize("columns", [1, 3, 1_025])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_product_and_adjoint_are_those_of_the_widened_table(rows: int, columns: int, dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(rows, 7, generator=rng).to(dtype)
    right, left = (torch.randn(size, columns, generator=rng, dtype=torch.float64) for size in (7, rows))
    torch.testing.assert_close(product(vectors, right), vectors.double() @ right)
    torch.testing.assert_close(adjoint(vectors, left), vectors.double().T @ left)
    assert float((left * product(vectors, right)).sum()) == pytest.approx(float((adjoint(vectors, left) * right).sum()))


class OnePlace(TorchFunctionMode):
    """Notes where products with as many rows as the table are computed."""

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.shapes, self.places = {(rows, dim), (dim, rows)}, set[str]()

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in READS and any(isinstance(a, torch.Tensor) and tuple(a.shape) in self.shapes for a in args):
            frame = sys._getframe(1)
            self.places.add(frame.f_code.co_filename.rsplit("/", 1)[-1])
        return function(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore::lore.errors.ConvergenceWarning")
@pytest.mark.parametrize("family", ["simplex", "gaussian"])
def test_fits_read_all_embeddings_through_product_and_adjoint_alone(family: Any) -> None:
    pairs = random_pairs(users=12, rows=101, dim=6, pairs=400).compact()
    one_place = OnePlace(len(pairs.vectors), pairs.dim)
    with one_place:
        fit_basis(pairs, FitConfig(family=family, rank=2))
    assert one_place.places == {"products.py"}

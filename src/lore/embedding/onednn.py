"""Linear layers on CPUs through oneDNN, with weights in its own layout: twice as fast as the default on some machines.

In single precision PyTorch multiplies through MKL, which leaves half of the vector units of some CPUs unused
(docs/embedding.md has figures). These are the operators that `torch.compile` puts in place of a linear layer.
"""

import torch
from torch import Tensor, nn


def can_pack(model: nn.Module) -> bool:
    """Return True if the layers of a model are single precision, on a CPU that oneDNN serves."""
    parameters = list(model.parameters())
    on_cpu = all(part.device.type == "cpu" and part.dtype == torch.float32 for part in parameters)
    return on_cpu and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def pack(model: nn.Module) -> None:
    """Replace the linear layers of a model, in place; it can be run but no longer be trained or saved."""
    for name, child in list(model.named_children()):
        if type(child) is nn.Linear:
            setattr(model, name, _PackedLinear(child))
        else:
            pack(child)


class _PackedLinear(nn.Module):
    """`nn.Linear` for inference."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, values: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(values, self._weight, self._bias, "none", [], "")
        return product

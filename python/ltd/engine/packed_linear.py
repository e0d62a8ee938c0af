"""Linear layers whose weights lie in the order that the CPU's matrix multiplication wants.

oneDNN reorders a plain weight matrix at every call; for the few rows of a decoding step the reordering costs as much as
the multiplication. Packed once, the weights are read as they are.
"""

from __future__ import annotations

import torch
from torch import nn

PLAIN = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is PyTorch's own linear one, over a weight that is nothing but its numbers.

    Layers of quantised models are others, or hold whole numbers, or tensors with a product of their own.
    """
    return type(layer) is nn.Linear and type(layer.weight) is nn.Parameter and layer.weight.dtype in PLAIN


def can_pack(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this torch has oneDNN's packed linear operators, and this processor their arithmetic for the type."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    # On processors without arithmetic of their own for a short type, oneDNN refuses it.
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32


class PackedLinear(nn.Module):
    """`nn.Linear` for inference on the CPU, with its weight packed once.

    Args:
        linear: the layer to take over; its weight is (out, in), in float32, bfloat16 or float16.
        rows: the number of input rows to pack for (a layout suits a range of them).
    """

    weight: torch.Tensor

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        with torch.no_grad():
            self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out)."""
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, "none", [], "")
        return output


def pack_linears(module: nn.Module, rows: int = 32) -> None:
    """Replaces every `nn.Linear` under `module` by a packed one, in place, where this torch can.

    The plain weights are let go, unless something else holds them (an embedding tied to the output layer).
    """
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            if child.weight.numel() > 0 and can_pack(child.weight.dtype):  # an emptied one's weight is elsewhere
                setattr(module, name, PackedLinear(child, rows))
        else:
            pack_linears(child, rows)

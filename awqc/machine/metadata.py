"""What may be asked of a tensor without computing with its elements."""

from __future__ import annotations

import torch
from torch import Tensor

METADATA = {
    *(
        getattr(Tensor, name).__get__
        for name in (
            "shape",
            "ndim",
            "device",
            "layout",
            "requires_grad",
            "is_leaf",
            "is_meta",
            "is_quantized",
            "is_sparse",
            "is_cuda",
            "grad",
            "grad_fn",
            "nbytes",
        )
    ),
    Tensor.requires_grad.__set__,  # type: ignore[attr-defined]  # a descriptor, which mypy takes for its value
    Tensor.requires_grad_,
    Tensor.__len__,
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.element_size,
    Tensor.stride,
    Tensor.storage_offset,
    Tensor.is_floating_point,
    Tensor.is_complex,
    Tensor.is_contiguous,
    Tensor.untyped_storage,
    torch.is_floating_point,
    torch.is_complex,
    torch.numel,
}
"""What is asked of a tensor and not computed with it."""
DTYPE = Tensor.dtype.__get__  # type: ignore[attr-defined]  # a descriptor, which mypy takes for its value

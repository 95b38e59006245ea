"""What `nn.TransformerEncoder` writes at padded positions, when it is called and when captured.

Called in eval mode it takes a path without the padded positions and writes zeros there, if padding
stands at the end of each row; captured, it computes values there. A model that reads them, as a
mean over all positions does, would be another one.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn


def write_padding_as_called(module: nn.Module) -> None:
    """Let each `nn.TransformerEncoder` in ``module`` give what a call gives when it is captured."""
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoder) and getattr(part, "use_nested_tensor", False):
            _write_zeros(part)


def _write_zeros(encoder: nn.TransformerEncoder) -> None:
    original = encoder.forward

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        given = signature.bind(*args, **kwargs).arguments
        src, padding = given["src"], given.get("src_key_padding_mask")
        plain = given.get("mask") is None and not given.get("is_causal") and src.ndim == 3
        fast = plain and torch.backends.mha.get_fastpath_enabled()  # type: ignore[no-untyped-call]  # torch declares no types
        if padding is None or not fast or not torch.compiler.is_compiling():
            return original(*args, **kwargs)
        for layer in encoder.layers:
            src = layer(src, src_key_padding_mask=padding)
        flags = _zero_positions(padding, checked=getattr(encoder, "mask_check", True))
        src = torch.where(flags.unsqueeze(-1), 0.0, src)
        return src if encoder.norm is None else encoder.norm(src)

    signature = inspect.signature(original)
    forward.__signature__ = signature  # type: ignore[attr-defined]  # functions may have it, which mypy does not know
    encoder.forward = forward  # type: ignore[method-assign]  # of this one encoder


def _zero_positions(padding: Tensor, checked: bool) -> Tensor:
    """The padded positions; none if ``checked`` and padding comes before a token anywhere."""
    padded = padding if padding.dtype is torch.bool else padding != 0
    if not checked:
        return padded
    before = padded[:, :-1] & ~padded[:, 1:]
    return padded & ~before.any()

"""Attention over repeated heads reads them before they were repeated, and means the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from awqc.export.onnx import export_onnx
from tests.export.quantizing import captured, relative_error, run_onnx

sdpa = functional.scaled_dot_product_attention
HEADS, OWN, WIDTH = 6, 2, 8


def expanded(x: Tensor) -> Tensor:
    batch, own, length, width = x.shape
    wide = x[:, :, None, :, :].expand(batch, own, HEADS // own, length, width)
    return wide.reshape(batch, HEADS, length, width)


def interleaved(x: Tensor) -> Tensor:
    return x.repeat_interleave(HEADS // OWN, dim=1)


def tiled(x: Tensor) -> Tensor:
    """The heads in another order: a, b, a, b."""
    return x.repeat(1, HEADS // OWN, 1, 1)


class Attend(nn.Module):
    def __init__(self, repeat: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.repeat = repeat

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor
    ) -> tuple[Tensor, ...]:
        keys, values = self.repeat(key), self.repeat(value)
        own = mask.expand(-1, HEADS, -1, -1) * query[..., :1]
        return (
            sdpa(query, keys, values, attn_mask=mask > 0),  # the last row sees nothing: zeros
            sdpa(query, keys, values, attn_mask=own, scale=0.3),
            sdpa(query, keys, values, attn_mask=mask[0, 0]),
            sdpa(query, keys, values, is_causal=True),
            sdpa(query, keys, values),
        )


def inputs(batch: int, rows: int, keys: int) -> tuple[Tensor, ...]:
    mask = torch.randn(batch, 1, rows, keys)
    mask[..., -1, :] = -1.0
    key, value = torch.randn(2, batch, OWN, keys, WIDTH)
    return torch.randn(batch, HEADS, rows, WIDTH), key, value, mask


@pytest.mark.parametrize(
    ("repeat", "copies"), [(expanded, False), (interleaved, False), (tiled, True)]
)
def test_heads_are_shared_where_that_is_what_repetition_means(
    repeat: Callable[[Tensor], Tensor], copies: bool, tmp_path: Path
) -> None:
    example = inputs(3, 5, 7)
    axes = {0: "batch", 2: "length"}
    dynamic = {
        "query": {0: "batch", 2: "rows"},
        "key": axes,
        "value": axes,
        "mask": {0: "batch", 2: "rows", 3: "length"},
    }
    program = captured(Attend(repeat), *example, dynamic=dynamic)
    path = export_onnx(program, tmp_path / "m.onnx").path
    graph = onnx.load(path).graph
    ranks = {len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    assert (max(ranks) > 4 or any(node.op_type == "Tile" for node in graph.node)) is copies
    for batch in (example, inputs(1, 1, 9), inputs(2, 4, 4)):
        feeds = {spec.name: x for spec, x in zip(program.inputs, batch, strict=True)}
        wanted = [x for x in program.run(feeds) if x is not None]
        assert relative_error(run_onnx(path, feeds), wanted) < 1e-5

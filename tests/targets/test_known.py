"""What follows from a target, a line each: options, the form that is written, its operations."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from awqc.errors import UsageError, worded
from awqc.export.formats import FORMATS
from awqc.export.misfits import misfits
from awqc.numerics.formats.int_grid import IntGrid
from awqc.options import parse_options
from awqc.options.compile_options import on_command_line
from awqc.targets.known import TARGETS, WEBGPU, find_target
from tests.export.quantizing import captured, quantized, relative_error, run_onnx

PORTABLE = ("onnx", "pt2")
TUNED = ("onnx", "ort", "pt2")
LINES: dict[str, tuple[tuple[str, ...], bool, int | str, set[str]]] = {
    # formats, symmetric, groups, and what an attention of an encoder with its norm becomes
    "ort-cpu": (TUNED, False, "auto", {"MatMulNBits", "MultiHeadAttention", "Sum"}),
    "ort-cuda": (TUNED, False, 32, {"MatMulNBits", "MultiHeadAttention", "SkipLayerNormalization"}),
    "webgpu": (TUNED, False, 32, {"MatMulNBits", "MultiHeadAttention", "SkipLayerNormalization"}),
    "dml": (TUNED, False, 32, {"MatMulNBits", "MultiHeadAttention", "SkipLayerNormalization"}),
    "openvino": (PORTABLE, False, "auto", {"DequantizeLinear", "Softmax", "Add"}),
    "trt-rtx": (TUNED, True, "auto", {"DequantizeLinear", "Softmax", "Sum"}),
    "qnn": (PORTABLE, True, 32, {"DequantizeLinear", "Softmax", "Add"}),
    "onnx": (PORTABLE, False, "auto", {"DequantizeLinear", "Softmax", "Add"}),
}
TOLD = {"MatMulNBits", "DequantizeLinear", "MultiHeadAttention", "Softmax", "Sum"} | {
    "SkipLayerNormalization", "Add",
}  # fmt: skip


class Encoder(nn.Module):
    """A block of an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(64, 64, bias=False) for _ in range(4))
        self.norm = nn.LayerNorm(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            each(x).unflatten(-1, (4, 16)).transpose(1, 2) for each in (self.q, self.k, self.v)
        )
        seen = nn.functional.scaled_dot_product_attention(q, k, v)
        normed: torch.Tensor = self.norm(x + self.o(seen.transpose(1, 2).flatten(-2)))
        return normed


def test_each_target_has_its_line() -> None:
    assert list(LINES) == list(TARGETS)
    assert [row.name for row in TARGETS.values()] == list(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_options_follow_where_nothing_else_was_asked_for(name: str) -> None:
    formats, symmetric, groups, _ = LINES[name]
    options = parse_options(target=name)
    assert (options.formats, options.symmetric, options.group_size) == (formats, symmetric, groups)
    assert parse_options(**vars(options)) == options


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_written_for_a_target_computes_the_same(name: str, tmp_path: Path) -> None:
    """And holds the operations that the target gains by, and no others of onnxruntime's own."""
    row, x = TARGETS[name], torch.randn(2, 5, 64)
    program = captured(Encoder(), x, dynamic={"x": {1: "tokens"}})
    quantized(program, IntGrid(4, 32, symmetric=not row.zero_points))
    path = FORMATS[row.form](program, tmp_path, {}, row)
    model = onnx.load(path)
    operations = Counter(node.op_type for node in model.graph.node)
    assert set(operations) & TOLD == LINES[name][-1]
    own = {node.op_type for node in model.graph.node if node.domain == "com.microsoft"}
    assert own <= row.fused
    assert model.opset_import[0].version <= row.opset
    x = torch.randn(3, 7, 64)
    # onnxruntime's products in the form that it makes of DequantizeLinear, or in its own
    assert relative_error(run_onnx(path, {"x": x}, 1), program.run({"x": x})) < (
        1e-5 if row.form == "onnx" or "DequantizeLinear" in operations else 2e-2
    )


REFUSED: dict[str, dict[str, Any]] = {
    "--bits 2: OpenVINO (--target openvino) takes weights of 3, 4 or 8 bits": {
        "target": "openvino", "bits": 2,
    },
    "--head-bits 3: onnxruntime on NVIDIA GPUs (--target ort-cuda) takes weights of 4 or 8 bits": {
        "target": "ort-cuda", "head_bits": 3,
    },
    "--group-size 24: onnxruntime on the CPU (--target ort-cpu) takes groups of 16, 32, 64": {
        "target": "ort-cpu", "group_size": 24,
    },
    "--dtype bfloat16: onnxruntime with DirectML (--target dml) takes computing in float16": {
        "target": "dml", "dtype": "bfloat16",
    },
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_a_target_cannot_run_is_refused_before_work(message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_options(**REFUSED[message])
    assert worded(caught.value.text, on_command_line).startswith(message)


def test_a_scale_a_row_groups_that_can_be_cut_and_float_heads_suit_all() -> None:
    for name in TARGETS:
        for size in (-1, 48):  # 48 is cut into blocks of 16
            options = parse_options(target=name, group_size=size, head_bits=0)
            assert (options.group_size, options.head_bits) == (size, 0)


def test_without_a_target_the_row_is_that_of_the_processor() -> None:
    assert find_target(parse_options().target).name == "ort-cpu"
    assert parse_options().formats == PORTABLE


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    program = quantized(captured(Encoder(), torch.randn(2, 5, 64)), IntGrid(4, 32))
    small = replace(WEBGPU, lacks=frozenset({"Split", "MatMulNBits"}), largest_buffer=1000,
                    dtypes=("float16",))  # fmt: skip
    assert list(misfits(tmp_path, small)) == []  # nothing was written for it
    FORMATS["ort"](program, tmp_path, {}, small)
    told = list(misfits(tmp_path, small))
    assert all(
        each.startswith("for onnxruntime-web and others on WebGPU (webgpu): ") for each in told
    )
    assert sum("a buffer has at most 0 MiB there" in each for each in told) == 4
    assert told[-1].endswith("the model computes in float32; it takes float16")
    assert list(misfits(tmp_path, TARGETS["ort-cpu"])) == []

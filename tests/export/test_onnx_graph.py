"""What is not a quantized weight: operations, names, axes, files, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from awqc.errors import ExportError, UsageError
from awqc.export import onnx as target
from awqc.export.onnx import export_onnx
from awqc.numerics.formats.int_grid import IntGrid
from tests.export.quantizing import captured, quantized, relative_error, run_onnx


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def attend(query: Tensor, key: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    sdpa = functional.scaled_dot_product_attention
    wide = key.repeat_interleave(2, 1)
    return (
        sdpa(query, wide, wide),
        sdpa(query, wide, wide, attn_mask=mask > 0),  # the last row sees nothing: zeros
        sdpa(query, wide, wide, attn_mask=mask, scale=0.3),
        sdpa(query, wide, wide, is_causal=True),
        sdpa(query, key, key, attn_mask=mask > 0, enable_gqa=True),
        sdpa(query[:, 0], wide[:, 0], wide[:, 0]),
        sdpa(query, wide, wide).transpose(1, 2).contiguous().view(query.shape[0], 5, -1),
    )


def attention_inputs(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    mask = torch.randn(batch, 1, 5, 5)
    mask[..., -1, :] = -1.0
    return torch.randn(batch, 4, 5, 8), torch.randn(batch, 2, 5, 8), mask


def compare(module: nn.Module, path: Path, *batches: tuple[Tensor, ...]) -> None:
    """Export with the first batch; all must come out of onnxruntime as out of PyTorch."""
    program = captured(module, *batches[0])
    exported = export_onnx(program, path)
    for batch in batches:
        feeds = {spec.name: x for spec, x in zip(program.inputs, batch, strict=True)}
        wanted = [value for value in program.run(feeds) if value is not None]
        assert relative_error(run_onnx(exported.path, feeds), wanted) < 1e-5


def test_attention_in_all_its_forms(tmp_path: Path) -> None:
    compare(Call(attend), tmp_path / "m.onnx", attention_inputs(3), attention_inputs(2))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x, x * 2, x, (x * 3,) * 2),
        lambda x: {"a": x + 1, "none": None},
        lambda x: ((x > 0).any(1)) | (x > 1).all(1),
        lambda x: functional.rms_norm(x, (8,)),
        lambda x: functional.one_hot(x.argmax(1), 8),
        lambda x: torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y - 1, (x,)),
        lambda x: x + torch.arange(x.shape[0])[:, None],
        lambda x: x.repeat_interleave(2, 1).flip(0).roll(1, 1),
        lambda x: 1.0 - (x > 0).long() * x.shape[1],
        lambda x: torch.rsub(x, 1.5, alpha=2),
    ],
)
def test_operations_that_need_decomposing(function: Callable[..., Any], tmp_path: Path) -> None:
    compare(Call(function), tmp_path / "m.onnx", (torch.randn(4, 8),), (torch.randn(3, 8),))


def pyramid(x: Tensor) -> Tensor:
    """An image beside coarser views of itself, at its own size."""
    views = [functional.adaptive_avg_pool2d(x, size).relu() for size in (1, 2, 3)]
    resized = [functional.interpolate(v, x.shape[2:], mode="bilinear") for v in views]
    return torch.cat([x, *resized], 1)


def test_resizing_leaves_the_batch_dynamic(tmp_path: Path) -> None:
    one, more = torch.randn(2, 3, 6, 6), torch.randn(5, 3, 6, 6)
    compare(Call(pyramid), tmp_path / "m.onnx", (one,), (more,))


def test_onnxruntime_knows_a_norm_written_out(tmp_path: Path) -> None:
    weight = torch.rand(8) + 0.5

    def norm(x: Tensor) -> Tensor:
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)) + 1

    compare(Call(norm), tmp_path / "m.onnx", (torch.randn(4, 8),), (torch.randn(3, 8),))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(tmp_path / "m.onnx", options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    assert [node.op_type for node in nodes] == ["SimplifiedLayerNormalization", "Add"]


@pytest.mark.parametrize("padding", [0, 1])
def test_zeros_around_a_pool_stay_zeros(padding: int, tmp_path: Path) -> None:
    def pool(x: Tensor) -> Tensor:
        return functional.max_pool2d(functional.pad(x, (1, 1, 1, 1)), 3, 2, padding)

    compare(Call(pool), tmp_path / "m.onnx", (torch.randn(2, 3, 8, 8) - 2,))


def test_names_axes_and_metadata(tmp_path: Path) -> None:
    model = nn.Sequential()
    model.add_module("encoder", nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 8)))
    program = quantized(captured(model, torch.randn(2, 32)), IntGrid(4, 16))
    exported = export_onnx(program, tmp_path / "m.onnx", metadata={"recipe": "{}"})
    model_proto = onnx.load(exported.path)
    graph = model_proto.graph
    assert {p.key: p.value for p in model_proto.metadata_props} == {"recipe": "{}"}
    assert (model_proto.producer_name, model_proto.opset_import[0].version) == ("awqc", 21)
    assert [node.name for node in graph.node] == [
        "encoder.0.weight/DequantizeLinear",
        "encoder.0/Gemm/MatMul",
        "encoder.0/Gemm/Add",
        "encoder.1/Gelu",
        "encoder.2.weight/DequantizeLinear",
        "encoder.2/Gemm/MatMul",
        "encoder.2/Gemm/Add",
    ]
    assert {t.name for t in graph.initializer} >= {
        "encoder.0.weight",
        "encoder.0.weight.scale",
        "encoder.0.weight.zero_point",
        "encoder.0.bias",
    }
    dims = [value.type.tensor_type.shape.dim[0].dim_param for value in graph.input]
    assert dims == ["batch"]
    assert exported.inputs == tuple(spec.name for spec in program.inputs)
    assert exported.outputs == program.outputs
    assert b"stack_trace" not in exported.path.read_bytes()
    assert str(Path(__file__).parent).encode() not in exported.path.read_bytes()


def test_external_data_on_request_and_when_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = captured(nn.Linear(64, 64), torch.randn(2, 64))
    inline = export_onnx(program, tmp_path / "inline.onnx")
    asked = export_onnx(program, tmp_path / "asked.onnx", external_data=True)
    monkeypatch.setattr(target, "MAX_INLINE_BYTES", 1000)
    large = export_onnx(program, tmp_path / "large.onnx")
    assert inline.data is None
    assert asked.data == tmp_path / "asked.onnx.data"
    assert large.data == tmp_path / "large.onnx.data"
    feeds = {program.inputs[0].name: torch.randn(2, 64)}
    for exported in (inline, asked, large):
        assert relative_error(run_onnx(exported.path, feeds), program.run(feeds)) < 1e-6
        assert exported.nbytes > 64 * 64 * 4


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    program = captured(nn.Linear(8, 8), torch.randn(2, 8))
    with pytest.raises(UsageError, match="use 21 or newer"):
        export_onnx(program, tmp_path / "m.onnx", opset=18)
    with pytest.raises(ExportError, match="could not be written"):
        export_onnx(program, tmp_path / "missing" / "m.onnx")
    unknown = captured(Call(lambda x: torch.cdist(x, x * 2)), torch.randn(2, 3, 4))
    with pytest.raises(ExportError, match="_cdist_forward"):
        export_onnx(unknown, tmp_path / "m.onnx")


def test_complex_inputs_are_refused(tmp_path: Path) -> None:
    program = captured(Call(lambda x: x.real * 2), torch.randn(2, 8, dtype=torch.complex64))
    with pytest.raises(ExportError, match=r"input 'inputs_0' is complex64.*view_as_real"):
        export_onnx(program, tmp_path / "model.onnx")

"""Compiled models in torch, with its own low-bit kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import awqc
from awqc.compiler import compile_graph
from awqc.errors import CaptureError, UsageError
from awqc.huggingface.tokens import token_batch
from awqc.runtimes.torch_int4 import TorchModel, load
from tests.huggingface.test_language_models import compile_folder, random_ids
from tests.tiny_language_models import save_decoder

BFLOAT16 = 1e-2
"""Relative error that rounding activations, scales and zeros to bfloat16 may cause."""


class Layers(nn.Module):
    """Products that the kernel takes, and products that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(128, 64)
        self.odd = nn.Linear(64, 24)  # output channels are no multiple of 16
        self.narrow = nn.Linear(24, 32)  # groups of 24
        self.conv = nn.Conv1d(32, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.narrow(self.odd(self.wide(x).relu()).relu()).relu()
        found = self.conv(h.transpose(1, 2))
        assert isinstance(found, Tensor)
        return found


def compiled(folder: Path, **options: Any) -> tuple[Any, TorchModel]:
    result = compile_graph(
        Layers().eval(),
        (torch.randn(2, 7, 128),),
        formats=("pt2",),
        effort="fast",
        output_dir=folder,
        **options,
    )
    return result, load(folder)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(
    "options",
    [{}, {"symmetric": True}, {"bits": 3}, {"bits": 3, "symmetric": True}, {"group_size": 32}],
    ids=str,
)
def test_products_that_fit_run_in_the_kernel(options: dict[str, Any], tmp_path: Path) -> None:
    result, model = compiled(tmp_path / "out", **options)
    assert model.fast == ("wide.weight",)
    assert model.portable == {
        "odd.weight": "24 output channels; the kernel takes multiples of 16",
        "narrow.weight": "24 columns in 1 groups; the kernel takes groups of 32, 64, 128, 256",
        "conv.weight": "read by conv1d.default",
    }
    for size in (1, 3):
        x = torch.randn(size, 7, 128)
        (found,) = model.run({model.inputs[0].name: x})
        assert 0 < relative(found, result.graph_module(x)) < BFLOAT16
        torch.testing.assert_close(model.graph_module(x), found)


def test_other_widths_are_told(tmp_path: Path) -> None:
    _, model = compiled(tmp_path / "out", bits=2, group_size=64)
    assert model.fast == ()
    assert model.portable["wide.weight"] == "2 bits; the kernel takes 4"


def test_products_of_8_bits_with_a_scale_a_row_read_codes(tmp_path: Path) -> None:
    result, model = compiled(tmp_path / "out", bits=8, group_size=-1, symmetric=True)
    assert model.fast == ("wide.weight", "odd.weight")
    assert model.portable["narrow.weight"] == "24 columns; the kernel takes multiples of 32"
    for size in (1, 7):  # one more and one less than the kernel is for
        x = torch.randn(size, 7, 128)
        (found,) = model.run({model.inputs[0].name: x})
        assert 0 < relative(found, result.graph_module(x)) < BFLOAT16
    _, grouped = compiled(tmp_path / "grouped", bits=8, symmetric=True, group_size=64)
    assert grouped.portable["wide.weight"] == "8 bits with 2 groups a row; the kernel takes one"
    _, shifted = compiled(tmp_path / "shifted", bits=8, group_size=-1)
    assert "the kernel takes symmetric weights" in shifted.portable["wide.weight"]


def test_nothing_is_dequantized_at_a_run(tmp_path: Path) -> None:
    save_decoder("llama", tmp_path / "model", num_hidden_layers=1, tie_word_embeddings=True)
    _, result = compile_folder(tmp_path / "model", formats=("pt2",))
    model = load(result.save(tmp_path / "out"))
    assert len(model.fast) == 7
    assert list(model.portable) == ["model.layers.0.mlp.down_proj.weight"]
    tensors = dict(model.graph_module.named_buffers())
    assert sum(tensor.dtype is torch.int8 for tensor in tensors.values()) == 1  # table and head
    assert not any(name.endswith(".packed") for name in tensors)
    assert not any("rshift" in node.name for node in model.graph_module.graph.nodes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_decoder_runs_under_the_names_of_its_onnx(dtype: str, tmp_path: Path) -> None:
    save_decoder("llama", tmp_path / "model", num_hidden_layers=1)
    program, result = compile_folder(
        tmp_path / "model", formats=("pt2",), dtype=dtype, effort="fast"
    )
    model = awqc.load(result.save(tmp_path / "out"), backend="torch-int4")
    assert [spec.name for spec in model.inputs] == [spec.name for spec in program.inputs]
    assert model.states == program.states
    assert len(model.fast) == 7
    batch = token_batch(model, random_ids(2, 11))
    wanted = program.run(token_batch(program, random_ids(2, 11)))[0]
    assert relative(model.run(batch, ["logits"])[0].float(), wanted) < BFLOAT16


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="runtime 'other' is unknown"):
        awqc.load(tmp_path, backend="other")
    with pytest.raises(UsageError, match="leave provider"):
        awqc.load(tmp_path, "cuda", backend="torch-int4")
    with pytest.raises(UsageError, match=r"there is no model\.pt2"):
        awqc.load(tmp_path, backend="torch-int4")
    (tmp_path / "model.pt2").write_bytes(b"PK\x03\x04")
    with pytest.raises(CaptureError, match="damaged"):
        awqc.load(tmp_path, backend="torch-int4")

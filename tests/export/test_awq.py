"""Checkpoints in AutoAWQ's layout, decoded by a reader of their own, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from awqc.compiler import compile_graph
from awqc.errors import ExportError, UsageError
from tests.huggingface.test_language_models import compile_folder
from tests.tiny_language_models import save_decoder

PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""The nibble of an int32 in which AutoAWQ has the first, second, … of its eight channels."""


def decode(words: Any) -> Any:
    """int32 ``(rows, n)`` as codes ``(rows, 8 n)``."""
    channels = [(words.view(np.uint32) >> np.uint32(4 * place)) & 15 for place in PLACES]
    return np.stack(channels, axis=-1).reshape(len(words), -1).astype(np.float32)


def dequantize(tensors: dict[str, Any], module: str, group_size: int) -> Any:
    """The weight ``(out_features, in_features)`` in float32."""
    codes = decode(tensors[f"{module}.qweight"])
    zeros = np.repeat(decode(tensors[f"{module}.qzeros"]), group_size, axis=0)
    scales = np.repeat(tensors[f"{module}.scales"].astype(np.float32), group_size, axis=0)
    return ((codes - zeros) * scales).T


@pytest.mark.parametrize("options", [{}, {"symmetric": True, "bits": 3}], ids=str)
def test_the_layout_holds_our_weights_exactly(options: dict[str, Any], tmp_path: Path) -> None:
    save_decoder("llama", tmp_path, hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    # With 64 and 96 input channels groups are of 64 and of 32; the format has one size.
    program, compiled = compile_folder(tmp_path, formats=("awq",), group_size="auto", **options)
    folder = compiled.folder / "awq"
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "float16"
    assert config["quantization_config"] == {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 32,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": ["lm_head"],
    }
    tensors = load_file(folder / "model.safetensors")
    layers = {name: w for name, w in program.findings.quantized.items() if ".layers." in name}
    assert {w.format.describe()["group_size"] for w in layers.values()} == {32, 64}
    for name, weight in layers.items():
        found = dequantize(tensors, name.removesuffix(".weight"), 32)
        np.testing.assert_array_equal(found, weight.dequantize().numpy())
    assert {t.dtype.name for t in tensors.values()} == {"int32", "float16"}


def test_a_bfloat16_decoder_is_held_exactly(tmp_path: Path) -> None:
    save_decoder("llama", tmp_path, intermediate_size=64, num_hidden_layers=1)
    program, compiled = compile_folder(tmp_path, formats=("awq",), dtype="bfloat16")
    tensors = load_file(compiled.folder / "awq" / "model.safetensors")
    name, weight = next((n, w) for n, w in program.findings.quantized.items() if ".layers." in n)
    found = dequantize(tensors, name.removesuffix(".weight"), 32)
    np.testing.assert_array_equal(found, weight.dequantize().numpy())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("gpt2", {}, "a Conv1D, and the format holds Linear only"),
        ("llama", {"bits": 8}, "holds 4 bits at most"),
        ("llama", {"runtime_scales": "always"}, "no place for them"),
    ],
)
def test_what_the_format_lacks_is_refused(
    kind: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_decoder(kind, tmp_path, num_hidden_layers=1)
    with pytest.raises((ExportError, UsageError), match=message):
        compile_folder(tmp_path, formats=("awq",), **options)


@pytest.mark.parametrize("name", ["awq", "compressed-tensors"])
def test_only_decoders_from_a_folder_are_taken(name: str) -> None:
    with pytest.raises(UsageError, match=f"the format {name} is for decoders"):
        compile_graph(nn.Linear(32, 32), (torch.randn(2, 32),), formats=(name,))

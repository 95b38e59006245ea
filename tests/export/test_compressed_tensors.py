"""Checkpoints in the format compressed-tensors, loaded by transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from awqc.compiler import Compiled
from awqc.export.compressed_tensors import CompressedTensors, pack_words
from awqc.huggingface.tokens import token_batch
from awqc.numerics.formats.int_grid import IntGrid
from awqc.program import Program
from tests.huggingface.test_language_models import compile_folder, random_ids
from tests.tiny_language_models import save_decoder, save_tokenizer

SIZES = {"intermediate_size": 64, "num_hidden_layers": 1}
FLOAT_TABLES: dict[str, Any] = {"head_bits": 0, "embed_bits": 0}


def compile_decoder(
    kind: str, folder: Path, *, tied: bool | None = None, **options: Any
) -> tuple[Program, Path, Compiled]:
    """The program, the folder of the checkpoint, and the compile that wrote it."""
    changes = {} if tied is None else {"tie_word_embeddings": tied}
    save_decoder(kind, folder / "model", **SIZES, **changes)
    save_tokenizer(folder / "model")
    program, compiled = compile_folder(folder / "model", formats=("compressed-tensors",), **options)
    return program, compiled.folder / "compressed-tensors", compiled


def logits(folder: Path, ids: Tensor, **options: Any) -> Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **options)
    with torch.no_grad():
        found = model(input_ids=ids).logits
    assert isinstance(found, Tensor)
    return found


def expected(program: Program, ids: Tensor) -> Tensor:
    return program.run(token_batch(program, ids))[0]


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_transformers_gives_our_logits(bits: int, tmp_path: Path) -> None:
    program, folder, _ = compile_decoder(
        "llama", tmp_path, bits=bits, symmetric=True, **FLOAT_TABLES
    )
    ids = random_ids(2, 11)
    torch.testing.assert_close(logits(folder, ids), expected(program, ids), rtol=0, atol=1e-6)
    weights = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert weights["config_groups"]["group_0"]["weights"]["num_bits"] == max(bits, 4)
    assert (folder / "tokenizer.json").is_file()


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
@pytest.mark.parametrize("kind", ["phi3", "gemma2"])  # fused qkv and gate; (1 + w), tied
def test_zero_points_and_other_layouts(kind: str, tmp_path: Path) -> None:
    from transformers import CompressedTensorsConfig

    program, folder, _ = compile_decoder(kind, tmp_path, **FLOAT_TABLES)
    assert any("zero_point" in weight.tensors for weight in program.findings.quantized.values())
    ids = random_ids(2, 11)
    # With zero points transformers loads dequantized only.
    found = logits(folder, ids, quantization_config=CompressedTensorsConfig(dequantize=True))
    torch.testing.assert_close(found, expected(program, ids), rtol=0, atol=1e-6)


def test_a_shared_table_is_written_in_float_and_said_so(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    program, folder, compiled = compile_decoder("llama", tmp_path, tied=True)
    (name,) = (n for n in program.findings.quantized if ".layers." not in n)
    assert program.findings.quantized[name].format.describe()["bits"] == 8
    said = {entry["name"]: entry["reason"] for entry in compiled.report["skipped"]}
    assert said[f"{name} (compressed-tensors)"].startswith("written in float")
    table = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    rounded = program.findings.quantized[name].dequantize()
    assert 0 < (table - rounded).abs().max() < rounded.abs().max() / 100


@pytest.mark.parametrize("bits", [4, 8])
def test_words_are_packed_as_the_package_packs_them(bits: int) -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    codes = torch.randint(0, 2**bits, (6, 50), dtype=torch.uint8)
    signed = (codes.to(torch.int16) - 2 ** (bits - 1)).to(torch.int8)
    torch.testing.assert_close(pack_words(codes, bits), pack_to_int32(signed, bits))


def test_linears_of_several_widths_are_named() -> None:
    forms = {"a": IntGrid(4, 32, True), "b": IntGrid(8, 32)}
    made = CompressedTensors().config(forms, 32, ["head"])
    groups = made["config_groups"].values()
    assert [group["targets"] for group in groups] == [["a"], ["b"]]
    assert [group["weights"]["symmetric"] for group in groups] == [True, False]
    assert made["ignore"] == ["head"]

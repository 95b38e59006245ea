"""``awqc bench``: every form in its own process, sizes by name, ratios, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import awqc
from awqc.bench.bench import bench
from awqc.bench.printing import print_bench
from awqc.bench.workload import Workload, make_inputs
from awqc.cli import run
from awqc.errors import AwqcError, UsageError
from awqc.runtimes.base import ArraySpec
from tests.huggingface.test_language_models import compile_folder
from tests.tiny import inputs, model
from tests.tiny_language_models import save_decoder

QUICK = Workload(tokens=4, new_tokens=2, seconds=0.01)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A compiled folder with both ONNX forms, and the original."""
    folder = tmp_path_factory.mktemp("bench")
    original = model("mlp")
    torch.save(original, folder / "model.pt")
    awqc.compile(
        original,
        (inputs("mlp"),),
        formats=("onnx", "ort"),
        provider="cpu",
        seed=0,
        output_dir=folder / "out",
    )
    return folder / "out", folder / "model.pt"


def test_all_forms_side_by_side(compiled: tuple[Path, Path]) -> None:
    folder, original = compiled
    result = bench(folder, against=str(original), workload=QUICK, turns=1, threads=1)
    assert list(result["forms"]) == ["quantized ort", "quantized onnx", "float onnx", "float torch"]
    for name, form in result["forms"].items():
        assert form["latency_ms"] > 0
        assert form["peak_rss_bytes"] > 10_000_000
        assert (form["load_s"] is None) == (name == "float torch")
    assert result["ratios"]["to"] == "float onnx"
    found = result["forms"]
    ratio = found["float onnx"]["latency_ms"] / found["quantized ort"]["latency_ms"]
    assert result["ratios"]["forms"]["quantized ort"]["latency_ms"] == pytest.approx(ratio)


def test_the_command_prints_a_table_or_json(
    compiled: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = compiled
    quick = ["--turns", "1", "--threads", "1", "--tokens", "4", "--provider", "cpu"]
    assert run(["bench", str(folder), *quick, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ratios"]["to"] == "quantized onnx"
    print_bench(result, Console(width=100))
    shown = capsys.readouterr().out
    assert "quantized ort" in shown
    assert "medians of 1 turns, batch 1, 4 tokens, 1 threads, onnxruntime on cpu" in shown


@pytest.mark.slow
def test_a_decoder_generates(tmp_path: Path) -> None:
    save_decoder("llama", tmp_path / "original", num_hidden_layers=1)
    _, made = compile_folder(tmp_path / "original", formats=("onnx", "ort"))
    made.save(tmp_path / "out")
    original = str(tmp_path / "original")
    how: dict[str, Any] = {"workload": QUICK, "turns": 1, "threads": 1}
    with pytest.raises(AwqcError, match="unknown-task"):
        bench(tmp_path / "out", against=original, task="unknown-task", **how)
    result = bench(tmp_path / "out", against=original, task="text-generation", **how)
    assert len(result["forms"]) == 4
    for form in result["forms"].values():
        assert form["prefill_tokens_per_s"] > 0
        assert form["decode_tokens_per_s"] > 0


def test_what_cannot_be_measured_says_why(compiled: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = compiled
    with pytest.raises(UsageError, match=r"has no model\.onnx"):
        bench(tmp_path)
    with pytest.raises(UsageError, match=r"nope\.pt2: there is no such file"):
        bench(folder, against="nope.pt2", workload=QUICK)
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(AwqcError, match="quantized onnx: "):
        bench(tmp_path, workload=QUICK, provider="cpu")


def test_sizes_follow_the_names_of_axes() -> None:
    cache: tuple[Any, ...] = ("batch", 2, "past", 8)
    specs = [
        ArraySpec("input_ids", "int64", ("batch", "sequence")),
        ArraySpec("attention_mask", "int64", ("batch", "past + sequence")),
        ArraySpec("position_ids", "int64", ("batch", "sequence")),
        ArraySpec("past_key_values.0.key", "float16", cache),
        ArraySpec("pixels", "float32", ("batch", 3, "2 * sequence")),
        ArraySpec("flag", "bool", ()),
    ]
    made = make_inputs(specs, Workload(batch=2), tokens=3, past=5)
    shapes = {name: array.shape for name, array in made.items()}
    assert shapes == {
        "input_ids": (2, 3), "attention_mask": (2, 8), "position_ids": (2, 3),
        "past_key_values.0.key": (2, 2, 5, 8), "pixels": (2, 3, 6), "flag": (),
    }  # fmt: skip
    assert made["attention_mask"].all()
    assert made["position_ids"].tolist() == [[5, 6, 7]] * 2
    assert made["past_key_values.0.key"].dtype == np.float16


def test_what_an_encoder_made_has_one_size_at_each_step() -> None:
    specs = [
        ArraySpec("encoder_attention_mask", "int64", ("batch", "source")),
        ArraySpec("input_ids", "int64", ("batch", "sequence")),
        ArraySpec("use_cache_branch", "bool", (1,)),
        ArraySpec("past_key_values.0.decoder.key", "float32", ("batch", 2, "past", 8)),
        ArraySpec("past_key_values.0.encoder.key", "float32", ("batch", 2, "source", 8)),
    ]
    first, later = (
        make_inputs(specs, Workload(tokens=7), tokens, past) for tokens, past in ((7, 0), (1, 9))
    )
    assert [array.shape for array in first.values()] == [
        (1, 7), (1, 7), (1,), (1, 2, 0, 8), (1, 2, 7, 8),
    ]  # fmt: skip
    assert [array.shape for array in later.values()] == [
        (1, 7), (1, 1), (1,), (1, 2, 9, 8), (1, 2, 7, 8),
    ]  # fmt: skip
    assert (first["use_cache_branch"].item(), later["use_cache_branch"].item()) == (False, True)
    assert first["input_ids"].max() > 1


def test_only_the_first_input_has_many_codes() -> None:
    ids = ArraySpec("input_ids", "int64", ("batch", "sequence"))
    # The table of token types may have one row.
    kinds = ArraySpec("token_type_ids", "int64", ("batch", "sequence"))
    made = make_inputs([ids, kinds], Workload(), tokens=32)
    assert made["input_ids"].max() > 1
    assert made["token_type_ids"].max() == 0


@pytest.mark.parametrize("size", ["a b", "f(a)", "unknown"])
def test_sizes_that_are_no_formula_are_refused(size: str) -> None:
    with pytest.raises(UsageError, match="is not understood"):
        make_inputs([ArraySpec("x", "float32", ("a", f"{size} + 1"))], Workload(), tokens=2)

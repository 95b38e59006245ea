"""Language models compiled from Hugging Face folders, and run in onnxruntime step by step."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from awqc.compiler import Compiled, compile_graph
from awqc.data.calibration import CalibrationData
from awqc.huggingface.capture import load_folder
from awqc.huggingface.tokens import token_batch
from awqc.program import Program
from awqc.runtimes.base import LoadedModel
from awqc.runtimes.onnxruntime import EXACT, Session
from tests.tiny_language_models import (
    DECODERS,
    ENCODERS,
    VOCABULARY,
    Opened,
    save_decoder,
    save_encoder,
    save_tokenizer,
)

EXPORT_TOLERANCE = 1e-5
STEP_TOLERANCE = 2e-5
REPEATED = {
    *("mistral", "gemma3_text", "gptj", "gpt_neox", "gpt_bigcode", "opt", "olmo2", "cohere"),
    *("electra", "albert", "roberta"),
    *("falcon_h1", "mamba2"),
}
"""Families that add little to the others here: slow."""

# By family: the products that read attention's output, and how many channels share a scale.
ATTENTION_OUTPUT = {
    "llama": ("o_proj", 2),  # four heads on two
    "gpt2": ("attn.c_proj", 1),
    "gpt_neox": ("attention.dense", 1),
    "gpt_bigcode": ("attn.c_proj", 4),  # four heads on one
    "falcon": ("attention.dense", 4),
    "bloom": ("attention.dense", 1),
    "opt": ("out_proj", 1),
    "phi3": ("o_proj", 2),
    "gemma2": ("o_proj", 2),
    "gemma3_text": ("o_proj", 4),
    "mistral": ("o_proj", 2),
    "olmo2": ("o_proj", 2),
    "cohere": ("o_proj", 1),
    "gptj": ("out_proj", 1),
}


def random_ids(rows: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(3, VOCABULARY, (rows, length), generator=generator)


def compile_folder(folder: Path, **options: Any) -> tuple[Program, Compiled]:
    """The program in ``folder``, quantized, and what came of it."""
    return compile_loaded(load_folder(folder), **options)


def compile_loaded(program: Program, **options: Any) -> tuple[Program, Compiled]:
    """``program`` of a folder, quantized, and what came of it."""
    ids = random_ids(6, 16)
    data = CalibrationData(
        (token_batch(program, ids[:4]),), (token_batch(program, ids[4:]),), "random tokens"
    )
    compiled = compile_graph(
        program,
        calib=data,
        **{"group_size": 32, "formats": ("onnx",), "provider": "cpu", **options},
    )
    return program, compiled


def run_steps(program: Program, session: LoadedModel, ids: Tensor, steps: list[int]) -> Tensor:
    """Logits of ``session``, whose cache is carried from step to step, the first one empty."""
    carried = token_batch(program, ids[:, :0])
    past = {name: carried[name] for name, _ in program.states}
    logits, total = [], 0
    for count in steps:
        batch = token_batch(program, ids[:, total : total + count]) | past
        total += count
        batch["attention_mask"] = torch.ones(len(ids), total, dtype=torch.long)
        if "position_ids" in batch:
            batch["position_ids"] = torch.arange(total - count, total).repeat(len(ids), 1)
        outputs = dict(zip(session.outputs, session.run(batch), strict=True))
        past = {name: outputs[new] for name, new in program.states}
        logits.append(outputs["logits"])
    return torch.cat(logits, dim=1)


def families(kinds: Iterable[str]) -> list[Any]:
    """As parameters of a test, the repeated ones marked slow."""
    return [
        pytest.param(kind, marks=[pytest.mark.slow] if kind in REPEATED else []) for kind in kinds
    ]


def check_verification(report: dict[str, Any], *, loss: float) -> None:
    verify = report["verify"]
    (found,) = verify["comparisons"]
    assert found["exact"]["rel"] < EXPORT_TOLERANCE
    assert verify["original"]["rel"] < loss
    assert found["kernels"]["unfused"] == found["kernels"]["dequantized"] == []
    assert found["kernels"]["low_bit"] > 0


def left_in_float(report: dict[str, Any]) -> set[str]:
    return {
        entry["name"] for entry in report["skipped"] if "embedding table" not in entry["reason"]
    }


@pytest.mark.parametrize("kind", families(DECODERS))
def test_a_decoder_compiles_and_runs_with_its_cache(
    kind: str, decoder_of: Callable[[str], Opened]
) -> None:
    program, compiled = compile_loaded(decoder_of(kind).program)
    check_verification(compiled.report, loss=0.3)
    assert left_in_float(compiled.report) == set()
    ids = random_ids(2, 11)
    whole = program.run(token_batch(program, ids))[0]
    session = Session(compiled.folder / "model.onnx", "cpu", EXACT)
    for steps in ([11], [6, 1, 1, 1, 2]):
        torch.testing.assert_close(
            run_steps(program, session, ids, steps), whole, rtol=0, atol=STEP_TOLERANCE
        )
    name, tie = ATTENTION_OUTPUT[kind]
    sites = [site for site in compiled.report["sites"] if site["name"].endswith(name)]
    assert {(site["status"], site["largest_tie"]) for site in sites} == {("folded", tie)}
    assert len(sites) == len(program.states) // 2  # one a layer, which has keys and values
    assert all(site["scales"] * tie == site["channels"] for site in sites)


def test_experts_are_computed_for_the_tokens_that_are_sent_to_them(tmp_path: Path) -> None:
    """From the folder to onnxruntime's operation for all experts of a layer, made-up text included;
    its caches, its choices and its positions are verified as those of any decoder."""
    save_decoder("mixtral", tmp_path)
    save_tokenizer(tmp_path)
    compiled = compile_graph(
        load_folder(tmp_path), group_size=16, formats=("onnx", "ort"), num_samples=6,
        provider="cpu", effort="fast",
    )  # fmt: skip
    for found in compiled.report["verify"]["comparisons"]:
        assert found["exact"]["rel"] < EXPORT_TOLERANCE
        assert found["kernels"]["unfused"] == found["kernels"]["dequantized"] == []
    ort = compiled.report["verify"]["ort"]
    assert ort["fused"]["QMoE"] == 2
    assert ort["products"] == 2 * 4 + 1  # queries to values, their result, router, experts; head
    assert not any("expert" in why for why in ort["apart"].values())


@pytest.mark.parametrize("kind", families(ENCODERS))
def test_an_encoder_compiles_and_masks_padding(kind: str, tmp_path: Path) -> None:
    save_encoder(kind, tmp_path)
    program, compiled = compile_folder(tmp_path)
    check_verification(compiled.report, loss=0.3)
    assert left_in_float(compiled.report) == set()
    ids = random_ids(3, 9)
    mask = torch.ones_like(ids)
    mask[-1, 5:] = 0
    session = Session(compiled.folder / "model.onnx", "cpu", EXACT)
    batch = token_batch(program, ids, mask)
    for got, expected in zip(session.run(batch), program.run(batch), strict=True):
        real = mask.bool() if expected.shape[:2] == mask.shape else ...
        torch.testing.assert_close(got[real], expected[real], rtol=0, atol=STEP_TOLERANCE)


# (tied, --head-bits, --embed-bits): what the embedding table and a head of its own get.
WIDTHS: dict[tuple[bool, int, int], tuple[int, int]] = {
    (False, 4, 0): (0, 4),
    (False, 0, 8): (8, 0),
    (True, 0, 8): (0, 0),  # one table for both
    (True, 8, 0): (0, 0),
}


@pytest.mark.parametrize("asked", WIDTHS, ids=str)
def test_table_and_head_get_the_width_that_was_asked_for(
    asked: tuple[bool, int, int], tmp_path: Path
) -> None:
    tied, head_bits, embed_bits = asked
    save_decoder("llama", tmp_path, tie_word_embeddings=tied, num_hidden_layers=1)
    program, compiled = compile_folder(
        tmp_path, head_bits=head_bits, embed_bits=embed_bits, effort="fast"
    )
    check_verification(compiled.report, loss=0.3)
    outside = [name for name in program.findings.quantized if ".layers." not in name]
    widths = [program.findings.quantized[name].format.describe()["bits"] for name in outside]
    assert widths == [bits for bits in WIDTHS[asked] if bits]
    (found,) = compiled.report["verify"]["comparisons"]
    assert found["kernels"]["low_bit"] == 7 + bool(WIDTHS[asked][1])


def test_a_decoder_in_half_keeps_its_axes(tmp_path: Path) -> None:
    save_decoder("llama", tmp_path, num_hidden_layers=1)
    program, compiled = compile_folder(tmp_path, dtype="float16")
    assert compiled.report["verify"]["comparisons"][0]["exact"]["rel"] < 1e-2
    session = Session(compiled.folder / "model.onnx", "cpu", EXACT)
    ids = random_ids(2, 11)
    whole = program.run(token_batch(program, ids))[0]
    half = {spec.name for spec in session.inputs if spec.dtype == torch.float16}
    assert half == {name for name, _ in program.states}
    batch = {
        name: value.half() if name in half else value
        for name, value in token_batch(program, ids).items()
    }
    torch.testing.assert_close(session.run(batch)[0].float(), whole, rtol=0, atol=5e-3)


def test_a_captured_decoder_compiles_without_data(tmp_path: Path) -> None:
    """The made-up batches hold a past, which the mask covers and the tokens do not."""
    save_decoder("llama", tmp_path, num_hidden_layers=1)
    compiled = compile_graph(
        load_folder(tmp_path), group_size=32, formats=("onnx",), provider="cpu", num_samples=8
    )
    assert compiled.report["calibration"]["synthetic"]
    check_verification(compiled.report, loss=1.0)


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_old_folder_as_it_was(tmp_path: Path) -> None:
    """The limit lets the tokenizer through, and stops the weights or what is kept for comparing."""
    source = tmp_path / "model"
    save_decoder("llama", source)
    save_tokenizer(source)
    (tmp_path / "calib.txt").write_text("one two three four five six seven eight\n" * 200)
    command = [
        sys.executable, "-m", "awqc", "compile", "model", "--calib", "calib.txt",
        "--num-samples", "4", "--seq-len", "16", "--formats", "onnx", "--effort", "fast",
    ]  # fmt: skip

    def compile_within(limit: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )

    done = compile_within(2**30)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "model-awq"
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    failed = compile_within(len(before["model.onnx"]) // 2)
    assert failed.returncode == 1, failed.stderr
    assert "Traceback" not in failed.stderr
    assert "could not be written" in failed.stderr
    after = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before
    assert {path.name for path in tmp_path.iterdir()} == {"model", "calib.txt", "model-awq"}

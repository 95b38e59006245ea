"""``awqc verify`` on a compiled language model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from awqc.cli import run
from tests.tiny_language_models import VOCABULARY, save_decoder, save_tokenizer


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model in ``source``, the compiled one in ``out``, and a text."""
    folder = tmp_path_factory.mktemp("verify")
    draw = random.Random(0)
    words = " ".join(f"w{draw.randrange(4, VOCABULARY)}" for _ in range(2000))
    (folder / "text.txt").write_text(words)
    save_decoder("llama", folder / "source", num_hidden_layers=1)
    save_tokenizer(folder / "source")
    arguments = ["compile", f"{folder / 'source'}", "--calib", f"{folder / 'text.txt'}"]
    more = ["--num-samples", "4", "--seq-len", "16", "--effort", "fast"]
    forms = ["--formats", "onnx,ort,pt2", "-o", f"{folder / 'out'}"]
    assert run([*arguments, *more, *forms]) == 0
    return folder


def test_a_decoder_is_verified_on_text(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--calib", f"{work / 'text.txt'}", "--num-samples", "2", "--json")
    assert run(["verify", f"{work / 'out'}", *data]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["original"] is None
    assert "original" not in alone["text"]
    assert alone["comparisons"][0]["exact"]["rel"] < 1e-4
    assert run(["verify", f"{work / 'out'}", *data, "--against", f"{work / 'source'}"]) == 0
    against = json.loads(capsys.readouterr().out)
    assert against["original"]["cosine"] > 0.9
    assert against["text"]["quantized"]["kl_divergence"] > 0


def test_a_decoder_is_verified_on_random_inputs(work: Path) -> None:
    assert run(["verify", f"{work / 'out'}", "--num-samples", "4"]) == 0


def test_the_original_is_opened_for_the_task_that_is_asked_for(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["verify", f"{work / 'out'}", "--num-samples", "1"]
    against = ["--against", f"{work / 'source'}", "--task", "feature-extraction"]
    assert run([*arguments, *against]) == 2
    assert "has the inputs attention_mask, input_ids" in capsys.readouterr().err

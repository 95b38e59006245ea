"""A folder of a model that speaks: compiled by parts, run with graphs, verified, refused."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import awqc
from awqc.cli import run
from awqc.errors import CalibrationError, CaptureError, UsageError
from awqc.front_door import plan_compile
from awqc.huggingface.speaking import AROUND
from awqc.options import parse_options
from awqc.whole.plans import WholePlan
from tests.tiny_speech import save_speaking

CHEAP = ["--bits", "8", "--group-size", "16", "--effort", "fast", "--provider", "cpu",
         "--formats", "onnx"]  # fmt: skip
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the original, and texts beside it."""
    folder = tmp_path_factory.mktemp("speaking")
    save_speaking(folder / "made")
    texts = [" ".join(f"t{4 + (first + i) % 56}" for i in range(8 + first)) for first in range(4)]
    (folder / "texts.txt").write_text("\n".join(texts))
    return folder


def sound(path: Path) -> tuple[int, np.ndarray[Any, Any]]:
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return file.getframerate(), samples / 32767


def test_a_part_that_is_named_is_compiled_and_the_rest_runs_around_it(
    speaking: Path, tmp_path: Path, capsys: Capture
) -> None:
    given = ["--calib", str(speaking / "texts.txt"), "--part", "voice=model.decoder"]
    out = tmp_path / "out"
    assert run(["compile", str(speaking / "made"), *given, *CHEAP, "-o", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert (report["task"], list(report["parts"])) == ("text-to-speech", ["voice"])
    assert max(gap["rel"] for gap in report["run"]["outputs"].values()) < 0.2
    assert (out / "voice" / "model.onnx").is_file()
    said = ["run", str(out), "t4 t5 t6 t7 t8 t9 t10", "-o", str(tmp_path / "said.wav")]
    assert run(said) == 0
    rate, samples = sound(tmp_path / "said.wav")
    assert rate == 8000
    wanted = original(speaking / "made", "t4 t5 t6 t7 t8 t9 t10")
    assert np.linalg.norm(samples - wanted) < 0.1 * np.linalg.norm(wanted)
    capsys.readouterr()
    assert run([*said[:-1], str(tmp_path / "said.npy")]) == 2
    assert "the model makes sound; give a name that ends with .wav" in capsys.readouterr().err
    (out / AROUND).unlink()
    assert run(said) == 2


def original(folder: Path, text: str) -> np.ndarray[Any, Any]:
    """What the original makes of ``text``, with the same random numbers."""
    from transformers import AutoTokenizer, VitsModel

    model = VitsModel.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    torch.manual_seed(0)
    with torch.no_grad():
        made = model(inputs["input_ids"], inputs["attention_mask"]).waveform
    return made[0].clamp(-1, 1).numpy()  # type: ignore[no-any-return]  # of transformers


@pytest.mark.slow
def test_a_folder_speaks_with_its_compiled_parts(speaking: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = [*CHEAP[:-1], "onnx,pt2"]
    assert run(["compile", str(speaking / "made"), *both, "-o", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert list(report["parts"]) == [
        "model_text_encoder", "model_duration_predictor", "model_flow", "model_decoder",
    ]  # fmt: skip
    assert list(report["opened"]) == ["model"]
    assert run(["verify", str(out)]) == 0
    said = ["t4 t5 t6 t7 t8 t9 t10", "t9 t8 t7 t6 t5 t4"]
    assert run(["run", str(out), *said, "-o", str(tmp_path / "said")]) == 0
    assert len(list((tmp_path / "said").glob("t*.wav"))) == 2
    against = ["--against", str(speaking / "made"), "--num-samples", "4"]
    assert run(["verify", str(out), *against]) == 0
    plan = plan_compile(speaking / "made", None, parse_options(num_samples=4))
    assert isinstance(plan, WholePlan)
    assert list(plan.parts) == list(report["parts"])


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ({"text": "t4", "voice": [1.0]}, CalibrationError, "VitsModel takes no voice; beside"),
        ({"said": "t4"}, CalibrationError, 'needs "text"'),
        ({"text": "t4"}, UsageError, "1 texts are there; give two at least"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    speaking: Path, tmp_path: Path, line: dict[str, Any], error: type[Exception], says: str
) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps(line))
    with pytest.raises(error, match=says):
        awqc.compile(speaking / "made", calib=lines)


def test_what_no_text_is_and_what_fails_is_refused(speaking: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="speaks texts: give"):
        awqc.compile(speaking / "made", calib={"x": torch.ones(3)})
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "t4", "labels": [1]}\n{"text": "t5", "labels": [1]}')
    with pytest.raises(CaptureError, match="run: fails on Speaker: NotImplementedError"):
        awqc.compile(speaking / "made", calib=lines)

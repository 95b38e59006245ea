"""Models of images and text that turn out to be an encoder and a decoder of its own `generate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import awqc
from awqc.errors import CaptureError
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.generating import Generating
from awqc.huggingface.generating_parts import capture_parts
from awqc.huggingface.samples import Sample
from awqc.huggingface.tasks import find_task, ways_of
from awqc.program import IMAGE, TEXT
from awqc.running.runner import Runner, task_in
from benchmarks.folder_models import MODELS

CHEAP: dict[str, Any] = {
    "effort": "fast", "bits": 8, "group_size": 16, "provider": "cpu", "num_samples": 4,
    "formats": "onnx", "seq_len": 6,
}  # fmt: skip


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    drawn = np.random.default_rng(3).integers(255, size=(90, 120, 3), dtype=np.uint8)
    Image.fromarray(drawn).save(tmp_path / "seen.png")
    return tmp_path / "seen.png"


@pytest.mark.parametrize(
    ("name", "reads", "asked"),
    [
        ("image-to-text/blip", (IMAGE,), []),
        ("visual-question-answering/blip", (TEXT, IMAGE), ["t4 t6"]),
    ],
)
def test_a_decoder_that_generates_by_itself_behind_an_encoder(
    name: str, reads: tuple[str, ...], asked: list[str], picture: Path, tmp_path: Path
) -> None:
    """The configuration does not tell; what begins and ends a text neither."""
    folder, target = tmp_path / "model", tmp_path / "out"
    model = MODELS[name].save(folder)
    compiled = awqc.compile(folder, output_dir=target, **CHEAP)
    assert set(compiled.parts) == {"encoder", "cross", "decoder"}
    assert compiled.report["task"] == name.partition("/")[0]
    task = task_in(HFFolder(target), None)
    assert (task.loops, task.reads) == (True, reads)
    said = json.loads((target / "generation_config.json").read_text())
    assert (said["decoder_start_token_id"], said["eos_token_id"]) == (0, 2)
    runner = Runner(target, max_new_tokens=4)
    ((_, answer),) = runner.answer([str(picture), *asked])
    sample = Sample("seen", next(iter(asked), None), Image.open(picture))
    inputs = runner.processor.inputs([sample])
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert answer.text == HFFolder(folder).tokenizer().decode(ids[0], skip_special_tokens=True)


def test_an_encoder_that_does_not_read_the_text_is_none_of_a_question(tmp_path: Path) -> None:
    MODELS["image-to-text/blip"].save(tmp_path)
    folder = HFFolder.at(tmp_path)
    prompted, _, with_text = ways_of(find_task(folder.config(), None, where="here"))
    generating = Generating.load(folder, prompted).doing(with_text)
    with pytest.raises(CaptureError, match="the encoder reads no text"):
        capture_parts(generating)

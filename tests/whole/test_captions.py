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
from awqc.huggingface.prefix_parts import capture_prefix
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
    ("name", "reads", "asked", "parts"),
    [
        ("image-to-text/blip", (IMAGE,), [], "encoder cross decoder"),
        ("visual-question-answering/blip", (TEXT, IMAGE), ["t4 t6"], "encoder cross decoder"),
        ("image-to-text/git", (IMAGE,), [], "encoder decoder"),
    ],
)
@pytest.mark.slow
def test_a_run_tells_the_way_of_a_model(
    name: str, reads: tuple[str, ...], asked: list[str], parts: str, picture: Path, tmp_path: Path
) -> None:
    """A decoder that generates by itself behind an encoder; one that reads an image at first.

    The configuration does not tell; what begins and ends a text of the former neither.
    """
    folder, target = tmp_path / "model", tmp_path / "out"
    model = MODELS[name].save(folder)
    compiled = awqc.compile(folder, output_dir=target, task=name.partition("/")[0], **CHEAP)
    assert list(compiled.parts) == parts.split()
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


def test_the_rows_of_an_image_are_the_past_of_a_text(tmp_path: Path) -> None:
    """The parts in their wiring, from no token on, against the model's own logits."""
    model = MODELS["image-to-text/git"].save(tmp_path)
    folder = HFFolder.at(tmp_path)
    _, alone, _ = ways_of(find_task(folder.config(), "image-to-text", where="here"))
    generating = Generating.load(folder, alone)
    parts = capture_prefix(generating)
    sample = generating.processor.maker().sample(np.random.default_rng(5))
    read, wanted = parts.follow(inputs := generating.inputs([sample]), 5).trace
    batch = {f"{part}.{key}": x for part, own in read.items() for key, x in own.items()}
    _, made = parts.bundle.trace(batch)
    assert made.keys() == wanted.keys()
    for key, value in made.items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        logits = model(input_ids=batch["decoder.input_ids"], **inputs).logits
    count = batch["decoder.input_ids"].shape[1]
    torch.testing.assert_close(made["decoder.logits"], logits[:, -count:], rtol=1e-3, atol=1e-5)


LOOKS = "image-text-to-text/mllama"
"""Its decoder has layers of their own that look at an image, and reads a prompt."""


def test_layers_of_their_own_look_at_what_the_first_call_made_of_an_image(tmp_path: Path) -> None:
    """Which of it each token may see follows from the prompt; new tokens see what its last sees."""
    model = MODELS[LOOKS].save(tmp_path)
    folder = HFFolder.at(tmp_path)
    generating = Generating.load(folder, find_task(folder.config(), None, where="here"))
    parts = capture_prefix(generating)
    outputs = parts.bundle.parts["encoder"].outputs
    assert outputs == ("present.1.encoder.key", "present.1.encoder.value")
    sample = generating.processor.maker().sample(np.random.default_rng(5))
    read, wanted = parts.follow(inputs := generating.inputs([sample]), 5).trace
    mask = read["decoder"]["cross_attention_mask"]
    prompt = inputs["input_ids"].shape[1]
    assert torch.equal(mask[:, prompt:], mask[:, prompt - 1 : prompt].expand(-1, 4, -1, -1))
    batch = {f"{part}.{key}": x for part, own in read.items() for key, x in own.items()}
    _, made = parts.bundle.trace(batch)
    for key, value in made.items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-3, atol=1e-4)
    tokens = batch["decoder.input_ids"]
    images = {key: value for key, value in inputs.items() if key in read["encoder"]}
    with torch.no_grad():
        logits = model(input_ids=tokens, cross_attention_mask=mask, **images).logits
    torch.testing.assert_close(made["decoder.logits"], logits, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_prompt_with_an_image_that_is_looked_at_is_continued(
    picture: Path, tmp_path: Path
) -> None:
    folder, target = tmp_path / "model", tmp_path / "out"
    model = MODELS[LOOKS].save(folder)
    compiled = awqc.compile(folder, output_dir=target, **CHEAP)
    assert list(compiled.parts) == ["encoder", "decoder"]
    assert compiled.report["task"] == "image-text-to-text"
    runner = Runner(target, max_new_tokens=4)
    ((_, answer),) = runner.answer([str(picture), "t4 t6"])
    inputs = runner.processor.inputs([Sample("seen", "t4 t6", Image.open(picture))])
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    ids = ids[0, inputs["input_ids"].shape[1] :]
    assert answer.text == HFFolder(folder).tokenizer().decode(ids, skip_special_tokens=True)


def test_a_model_that_reads_nothing_in_front_is_refused(tmp_path: Path) -> None:
    MODELS["image-to-text/blip"].save(tmp_path)
    folder = HFFolder.at(tmp_path)
    _, alone, _ = ways_of(find_task(folder.config(), None, where="here"))
    with pytest.raises(CaptureError, match="does not call the model as a whole"):
        capture_prefix(Generating.load(folder, alone))


def test_the_files_of_one_form_alone_tell_the_task(tmp_path: Path) -> None:
    """As in ``ort/``, which has no report."""
    MODELS["text2text-generation/t5"].save(tmp_path)
    (tmp_path / "encoder_model.onnx").touch()
    assert task_in(HFFolder(tmp_path), None).name == "text2text-generation"

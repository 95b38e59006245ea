"""Folders of models that read images and audio, compiled on such data and run in onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import awqc
from awqc.cli import run
from awqc.data.grouping import Grouped
from awqc.data.load import DataSource
from awqc.errors import CalibrationError, UsageError, worded
from awqc.huggingface.capture import load_folder
from awqc.program import Program
from benchmarks.folder_models import MODELS
from tests.media import tone, write_images, write_speech, write_wave
from tests.tiny import captured

QUICK = ("--bits", "8", "--group-size", "16", "--effort", "fast", "--provider", "cpu",
         "--formats", "onnx,pt2")  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    write_images(work / "photos", 6)
    write_images(work / "photos" / "more", 2, "RGBA")
    write_speech(work / "speech", 6)
    return work


@pytest.fixture(scope="module")
def vit(work: Path) -> tuple[Path, Any]:
    return work / "vit", MODELS["image-classification/vit"].save(work / "vit")


@pytest.fixture(scope="module")
def images(vit: tuple[Path, Any]) -> Program:
    return load_folder(vit[0])


@pytest.fixture(scope="module")
def compiled_vit(vit: tuple[Path, Any], work: Path) -> Path:
    given = ["compile", str(vit[0]), "--calib", str(work / "photos"), "-o", str(work / "out")]
    assert run([*given, *QUICK]) == 0
    return work / "out"


@pytest.fixture(scope="module")
def wav2vec2(work: Path) -> tuple[Path, Any]:
    folder = work / "wav2vec2"
    return folder, MODELS["automatic-speech-recognition/wav2vec2"].save(folder)


@pytest.fixture(scope="module")
def audio(wav2vec2: tuple[Path, Any]) -> Program:
    return load_folder(wav2vec2[0])


def test_the_compiled_folder_classifies_images_with_the_processor_beside_it(
    vit: tuple[Path, Any], compiled_vit: Path, work: Path
) -> None:
    import onnxruntime
    from transformers import AutoConfig, AutoImageProcessor

    assert AutoConfig.from_pretrained(compiled_vit).architectures == ["ViTForImageClassification"]
    processor = AutoImageProcessor.from_pretrained(compiled_vit)
    inputs = processor(images=Image.open(work / "photos" / "3.png"), return_tensors="pt")
    session = onnxruntime.InferenceSession(compiled_vit / "model.onnx")
    (found,) = session.run(["logits"], {"pixel_values": inputs["pixel_values"].numpy()})
    with torch.no_grad():
        wanted = vit[1](**inputs).logits
    assert float((torch.from_numpy(found) - wanted).norm() / wanted.norm()) < 0.05  # 8-bit noise
    assert found.argmax() == wanted.argmax()


def test_the_report_says_what_was_done_to_the_images(compiled_vit: Path, work: Path) -> None:
    report = json.loads((compiled_vit / "report.json").read_text())
    data = report["calibration"]
    assert data["source"] == str(work / "photos")
    assert not data["synthetic"]
    assert data["notes"] == ["2 images in other colors (RGBA) were made RGB"]


def test_the_compiled_folder_is_verified_again_on_images(compiled_vit: Path, work: Path) -> None:
    assert run(["verify", str(compiled_vit), "--calib", str(work / "photos" / "*.png")]) == 0


@pytest.mark.slow
def test_speech_is_recognised_by_the_compiled_folder(
    wav2vec2: tuple[Path, Any], work: Path
) -> None:
    folder, model = wav2vec2
    compiled = awqc.compile(
        folder, calib=work / "speech", bits=8, group_size=16, effort="fast", provider="cpu",
        formats="onnx",
    )  # fmt: skip
    samples = torch.from_numpy(tone(16000, 0.15, 300))[None]
    found = awqc.load(compiled.folder, provider="cpu").run({"input_values": samples})[0]
    with torch.no_grad():
        wanted = model(samples).logits
    assert found.shape == wanted.shape
    assert float((found - wanted).norm() / wanted.norm()) < 0.1  # 8-bit noise
    assert {"preprocessor_config.json", "config.json"} <= {
        p.name for p in compiled.folder.iterdir()
    }


@pytest.mark.slow
def test_images_and_texts_are_compared_by_the_compiled_folder(work: Path) -> None:
    folder = work / "clip"
    MODELS["zero-shot-image-classification/clip"].save(folder)
    lines = [
        {"image": f"photos/{index}.png", "text": f"t{index} t9"[: 5 * (index % 2) or None]}
        for index in range(6)
    ]
    pairs = work / "pairs.jsonl"
    pairs.write_text("\n".join(map(json.dumps, lines)))
    compiled = awqc.compile(
        folder, calib=pairs, bits=8, group_size=16, effort="fast", provider="cpu",
        formats="onnx",
    )  # fmt: skip
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(compiled.folder)
    texts, photo = ["t1 t2", "t3 t4", "t5 t6"], Image.open(work / "photos" / "0.png")
    inputs = dict(processor(text=texts, images=[photo], return_tensors="pt"))
    names = [spec.name for spec in awqc.load(compiled.folder, provider="cpu").inputs]
    given = {name: inputs[name] for name in names}
    logits = awqc.load(compiled.folder, provider="cpu").run(given)[0]
    assert logits.shape == (1, 3)


def batches(program: Program, given: Any, **options: Any) -> list[dict[str, Tensor]]:
    data = DataSource.of(given).load(program, **options)
    return [*data.batches, *data.held_out]


def test_samples_of_equal_sizes_are_batched_and_a_fifth_is_held_out(
    images: Program, audio: Program, work: Path
) -> None:
    data = DataSource.of(work / "photos").load(images)
    assert [len(batch["pixel_values"]) for batch in data.batches] == [6]
    assert [len(batch["pixel_values"]) for batch in data.held_out] == [2]
    sizes = sorted(tuple(b["input_values"].shape) for b in batches(audio, work / "speech"))
    assert sum(count for count, _ in sizes) == 6
    assert {length for _, length in sizes} == {1600, 1920, 2240}


def test_without_data_it_is_made_up_and_said(images: Program, audio: Program) -> None:
    for program, kind in ((images, "image"), (audio, "audio")):
        data = DataSource.of(None).load(program, num_samples=5, seed=3)
        again = DataSource.of(None).load(program, num_samples=5, seed=3)
        (name,) = (spec.name for spec in program.inputs)
        assert data.synthetic
        assert f"5 samples of {kind} are made up, seed 3" in data.notes[0]
        assert torch.equal(data.batches[0][name], again.batches[0][name])
        assert sum(len(b[name]) for b in (*data.batches, *data.held_out)) == 5


def test_fewer_samples_are_spread_over_all_files(images: Program, work: Path) -> None:
    data = DataSource.of(work / "photos").load(images, num_samples=4)
    assert worded(data.notes[0]) == "4 of 8 samples are used; num_samples says otherwise"
    with pytest.raises(UsageError, match="num_samples is 0"):
        DataSource.of(work / "photos").load(images, num_samples=0)
    with pytest.raises(UsageError, match="seq_len is for language models"):
        DataSource.of(work / "photos").load(images, seq_len=8)


def test_audio_of_another_rate_is_resampled_and_said(audio: Program, tmp_path: Path) -> None:
    for index in range(2):
        write_wave(tmp_path / f"{index}.wav", tone(8000, 0.2), 8000)
    data = DataSource.of(tmp_path).load(audio)
    assert data.batches[0]["input_values"].shape == (1, 3200)
    told = "2 audio files of another rate (8000 Hz) were resampled to 16000 Hz"
    assert data.notes == (told,)


def too_short(folder: Path) -> None:
    write_wave(folder / "b.wav", tone(16000, 0.0004), 16000)


def empty(folder: Path) -> None:
    write_wave(folder / "b.wav", np.zeros(0, np.float32), 16000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (too_short, r"b\.wav: gives input_values=\[1, 6\], on which .* fails: .*leave it out"),
        (empty, r"b\.wav: the audio is empty"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    make: Callable[[Path], None], message: str, audio: Program, tmp_path: Path
) -> None:
    write_speech(tmp_path, 3)
    make(tmp_path)
    with pytest.raises(CalibrationError, match=message):
        DataSource.of(tmp_path).load(audio)


def test_data_of_a_kind_that_the_model_does_not_read_is_refused(
    images: Program, work: Path
) -> None:
    with pytest.raises(UsageError, match=r"reads image, of which there is none .*0\.wav"):
        DataSource.of(work / "speech").load(images)
    (work / "lines.txt").write_text("a text\n")
    with pytest.raises(UsageError, match=r"lines\.txt: is text; .* reads image: give files of it"):
        DataSource.of(work / "lines.txt").load(images)
    with pytest.raises(UsageError, match=r"photos: names images or audio, .* reads arrays"):
        DataSource.of(work / "photos").load(captured("mlp"))


def test_sizes_that_the_graph_fixes_are_checked_by_name(images: Program) -> None:
    with pytest.raises(CalibrationError, match=r"a\.png: 'pixel_values' has the size 40 on axis 2"):
        Grouped(images).add("a.png", {"pixel_values": torch.zeros(1, 3, 40, 32)})
    with pytest.raises(CalibrationError, match=r"a\.png: the processor makes x of it; .* needs"):
        Grouped(images).add("a.png", {"x": torch.zeros(1, 3, 32, 32)})

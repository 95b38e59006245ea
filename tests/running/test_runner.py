"""A compiled folder of one graph, used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import awqc
from awqc.errors import UsageError
from awqc.running.runner import Runner
from benchmarks.folder_models import MODELS
from tests.media import write_images

pytestmark = pytest.mark.slow
CHEAP: dict[str, Any] = {
    "effort": "fast", "bits": 8, "group_size": 16, "provider": "cpu", "num_samples": 6,
    "formats": ("onnx",),
}  # fmt: skip


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    base = tmp_path_factory.mktemp("vit")
    model = MODELS["image-classification/vit"].save(base / "model")
    awqc.compile(base / "model", output_dir=base / "out", **CHEAP)
    return base / "out", model


def test_images_are_classified(vit: tuple[Path, Any], tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(256, size=(40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    runner = Runner(vit[0])
    ((name, answer),) = runner.answer([str(tmp_path / "a.png")])
    assert name == str(tmp_path / "a.png")
    inputs = runner.processor.made(images=Image.open(tmp_path / "a.png"), return_tensors="pt")
    with torch.no_grad():
        wanted = vit[1](**inputs).logits.softmax(dim=-1)[0]
    label = vit[1].config.id2label[int(wanted.argmax())]
    assert answer.content[0]["label"] == label
    assert answer.content[0]["score"] == pytest.approx(float(wanted.max()), abs=0.02)


def test_what_was_done_to_an_image_is_told(vit: tuple[Path, Any], tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1, "RGBA")
    runner = Runner(vit[0])
    list(runner.answer([str(path)]))
    assert runner.notes == ["1 images in other colors (RGBA) were made RGB"]


def test_a_file_of_another_kind_is_refused(vit: tuple[Path, Any], tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(UsageError, match="is no image file, which the model reads"):
        list(Runner(vit[0]).answer([str(tmp_path / "a.wav")]))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no config"):
        Runner(tmp_path)

"""Images for models of the user's own code, through the transform that the factory returns."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import awqc
from awqc.cli import run
from awqc.data.load import DataSource
from awqc.errors import AwqcError, CaptureError, UsageError
from awqc.sources.source import load_program
from tests.media import write_images

CODE = """
import numpy as np
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, pixels):
        return self.head(self.conv(pixels).relu().mean(dim=(2, 3)))

class Two(Net):
    def forward(self, pixels, sizes):
        return super().forward(pixels) + sizes

def transform(image):
    pixels = np.asarray(image.resize((16, 16)), dtype=np.float32) / 255
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

def make(): return Net(), None, transform
def as_array(): return Net(), None, lambda image: transform(image).numpy()
def two(): return Two(), None, lambda image: {"pixels": transform(image), "sizes": torch.ones(5)}
def short(): return Two(), (torch.ones(2, 3, 16, 16), torch.ones(2, 5)), transform
def nothing(): return Net(), (torch.ones(2, 3, 16, 16),), lambda image: image
def fails(): return Net(), (torch.ones(2, 3, 16, 16),), lambda image: image.nowhere
def flat(): return Net(), (torch.ones(2, 3, 16, 16),), lambda image: torch.ones(3)
"""


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("user_image.py").write_text(CODE)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if "user_" in name:
            del sys.modules[name]


@pytest.mark.parametrize("factory", ["make", "as_array", "two"])
def test_images_reach_the_model_through_the_transform(factory: str) -> None:
    paths = write_images(Path("photos"), 10, mode="RGBA")
    program = load_program(f"user_image.py:{factory}")
    assert program.inputs[0].shape == ("batch", 3, 16, 16)
    data = DataSource.of("photos").load(program)
    assert sum(len(batch["pixels"]) for batch in (*data.batches, *data.held_out)) == 10
    from PIL import Image

    pixels = np.asarray(Image.open(paths[0]).convert("RGB").resize((16, 16)), np.float32) / 255
    wanted = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    rows = torch.cat([batch["pixels"] for batch in (*data.batches, *data.held_out)])
    assert any(torch.equal(row, wanted) for row in rows)
    assert any("10 images in other colors (RGBA) were made RGB" in note for note in data.notes)


def test_lines_of_json_name_images() -> None:
    write_images(Path("photos"), 4)
    lines = [json.dumps({"image": f"photos/{index}.png"}) for index in range(4)]
    Path("lines.jsonl").write_text("\n".join(lines))
    data = DataSource.of("lines.jsonl").load(load_program("user_image.py:make"))
    assert sum(len(batch["pixels"]) for batch in (*data.batches, *data.held_out)) == 4


def test_without_data_images_are_made_up() -> None:
    data = DataSource.of(None).load(load_program("user_image.py:make"), num_samples=8)
    assert data.synthetic
    assert "made up" in data.notes[0]
    assert min(float(batch["pixels"].min()) for batch in data.batches) >= 0


@pytest.mark.parametrize(
    ("factory", "kind", "message"),
    [
        ("nothing", UsageError, "returns a Image for pixels; a tensor is needed"),
        ("fails", CaptureError, r"the transform fails on photos.0\.png: AttributeError"),
        ("short", UsageError, "has the inputs pixels, sizes; return a dict"),
        ("flat", AwqcError, r"photos.*\.png"),
    ],
)
def test_transforms_that_do_not_fit_are_refused(
    factory: str, kind: type[AwqcError], message: str
) -> None:
    write_images(Path("photos"), 2)
    program = load_program(f"user_image.py:{factory}")
    with pytest.raises(kind, match=message):
        DataSource.of("photos").load(program)


def test_images_without_a_transform_are_refused() -> None:
    write_images(Path("photos"), 2)
    with pytest.raises(UsageError, match="factories that return a transform"):
        DataSource.of("photos").load(
            load_program("user_image.py:Net", inputs=["pixels=float32[batch,3,16,16]"])
        )


def test_compile_and_verify_on_images(capsys: pytest.CaptureFixture[str]) -> None:
    write_images(Path("photos"), 10)
    assert run(["compile", "user_image.py:make", "--calib", "photos", "-o", "out"]) == 0
    report = json.loads(Path("out/report.json").read_text())
    assert report["calibration"]["source"] == "photos"
    assert not report["calibration"]["synthetic"]
    capsys.readouterr()
    arguments = ["verify", "out", "--calib", "photos", "--against", "user_image.py:make", "--json"]
    assert run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["original"]["sqnr_db"] > 10
    compiled = awqc.compile("user_image.py:make", calib="photos")
    assert compiled.report["calibration"]["source"] == "photos"

"""Images out of files: colors, orientation, and files that are none."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from awqc.data import image_files
from awqc.data.image_files import read_image
from awqc.errors import AwqcError, CalibrationError, UsageError
from tests.media import write_images


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_every_kind_of_color_becomes_rgb(mode: str, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1, mode)
    image, found = read_image(path)
    assert (image.mode, image.size, found) == ("RGB", (60, 40), mode)


def test_of_sixteen_bits_the_upper_eight_are_taken(tmp_path: Path) -> None:
    deep = np.arange(0, 2**16, 2**8, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    image, found = read_image(tmp_path / "deep.png")
    assert (image.mode, found) == ("RGB", "I;16")
    assert (np.asarray(image)[..., 0] == np.arange(256).reshape(16, 16)).all()


def test_a_photo_is_turned_as_its_camera_was_held(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    image, _ = read_image(tmp_path / "a.png")
    assert image.size == (8, 16)
    assert np.asarray(image)[0].min() == 255


def absent(path: Path) -> None: ...
def text(path: Path) -> None:
    path.write_text("no image")


def cut_short(path: Path) -> None:
    (whole,) = write_images(path.parent / "whole", 1)
    path.write_bytes(whole.read_bytes()[:-2000])


def pipe(path: Path) -> None:
    os.mkfifo(path)


def postscript(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path, format="EPS")


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (postscript, CalibrationError, "is no image that can be read; give whole files of PNG"),
        (absent, UsageError, "there is no such image"),
        (pipe, UsageError, "there is no such image"),
        (text, CalibrationError, "is no image that can be read"),
        (cut_short, CalibrationError, "is damaged or cut short: .*leave it out"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    make: Callable[[Path], None], kind: type[AwqcError], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "photo.png")
    with pytest.raises(kind, match=rf"photo\.png: .*{message}"):
        read_image(tmp_path / "photo.png")


def test_a_huge_image_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_images(tmp_path, 1)
    monkeypatch.setattr(image_files, "MOST_PIXELS", 1000)
    with pytest.raises(CalibrationError, match="has 60x40 pixels"):
        read_image(path)


def test_no_file_has_another_program_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(subprocess, "check_call", lambda *args, **more: started.append(args))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    postscript(tmp_path / "photo.png")
    with pytest.raises(CalibrationError, match="is no image"):
        read_image(tmp_path / "photo.png")
    assert started == []
    with suppress(OSError), Image.open(tmp_path / "photo.png") as opened:
        opened.load()
    assert started, "Pillow runs nothing either: this shows nothing"

"""Images and audio files that a path, a folder or a pattern names."""

from __future__ import annotations

from pathlib import Path

import pytest

from awqc.data.media_files import find_media
from awqc.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.JPG", "a.png", "inner/c.wav", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_stands_for_all_in_it(folder: Path) -> None:
    assert find_media(folder) == (folder / "a.png", folder / "b.JPG", folder / "inner/c.wav")


def test_a_pattern_stands_for_what_fits_it(folder: Path) -> None:
    assert find_media(folder / "*.png") == (folder / "a.png",)
    assert find_media(folder / "**" / "*.wav") == (folder / "inner/c.wav",)


def test_a_file_is_told_by_its_ending(folder: Path) -> None:
    assert find_media(folder / "a.png") == (folder / "a.png",)
    assert find_media(folder / "missing.flac") == (folder / "missing.flac",)
    assert find_media(folder / "notes.txt") is None
    assert find_media(folder / "data.npz") is None


@pytest.mark.parametrize("path", [".", "*.gif", "notes*"])
def test_a_folder_or_pattern_without_any_is_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"names no image and no audio file there \([01] other"):
        find_media(tmp_path / path)

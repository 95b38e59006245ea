"""Temporary folders go when nobody needs them, or at the next start."""

from __future__ import annotations

from pathlib import Path

import pytest

from awqc.artifacts.claims import NOTE, SCRATCH, SUFFIX
from awqc.artifacts.scratch import ScratchFolder, scratch_folder


def test_a_scratch_folder_goes_with_its_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scratch = ScratchFolder()
    path = scratch.path
    (path / "x").write_text("1")
    del scratch
    assert not path.exists()
    with scratch_folder() as path:
        (path / "x").write_text("1")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_goes_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f"{SCRATCH}0123456789abcdef"
    left.mkdir()
    left.with_name(left.name + SUFFIX).write_bytes(NOTE)
    with scratch_folder() as path:
        assert not left.exists()
        assert path.is_dir()

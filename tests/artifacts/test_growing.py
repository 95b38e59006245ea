"""A folder that fills during a run: whole files, the last run's gone, others' kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from awqc.artifacts.growing import GrowingFolder
from awqc.artifacts.manifest import MANIFEST, changed, read_manifest, strangers
from awqc.errors import UsageError


def grown(path: Path, *names: str) -> GrowingFolder:
    folder = GrowingFolder(path, (), "--dump-dir")
    for name in names:
        folder.add(name, f"text of {name}")
    return folder


def test_each_file_is_there_and_known_at_once(tmp_path: Path) -> None:
    folder = GrowingFolder(tmp_path / "a" / "dumps", (), "--dump-dir")
    assert not (tmp_path / "a").exists()
    for count, name in enumerate(("0.txt", "1.txt"), 1):
        folder.add(name, f"über {name}")
        assert (folder.path / name).read_text(encoding="utf-8") == f"über {name}"
        files = read_manifest(folder.path)
        assert files is not None
        assert len(files) == count
        assert not strangers(folder.path, files)
        assert not changed(folder.path, files)


def test_the_next_run_replaces_all_files_when_it_has_its_first(tmp_path: Path) -> None:
    grown(tmp_path / "dumps", "0", "1", "2")
    folder = grown(tmp_path / "dumps")
    assert set(os.listdir(folder.path)) == {"0", "1", "2", MANIFEST}
    folder.add("other", "")
    assert set(os.listdir(folder.path)) == {"other", MANIFEST}


def test_notes_that_are_made_before_the_first_file_stop_it(tmp_path: Path) -> None:
    grown(tmp_path / "dumps", "0")
    folder = grown(tmp_path / "dumps")
    (tmp_path / "dumps" / "0").write_text("my notes")
    with pytest.raises(UsageError, match="changed since awqc wrote them: 0"):
        folder.add("0", "")
    assert (tmp_path / "dumps" / "0").read_text() == "my notes"


def test_two_runs_do_not_mix(tmp_path: Path) -> None:
    first = grown(tmp_path / "dumps", "0")
    with pytest.raises(UsageError, match=r"--dump-dir .*dumps: another run writes there"):
        grown(tmp_path / "dumps", "0")
    first.add("1", "")
    assert set(os.listdir(first.path)) == {"0", "1", MANIFEST}
    del first
    grown(tmp_path / "dumps", "0")

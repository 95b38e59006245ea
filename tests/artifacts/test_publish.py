"""A folder is replaced as a whole, or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from awqc.artifacts.publish import MARK, ScratchFolder, check_replaceable, staging
from awqc.errors import ExportError, UsageError


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A folder of an earlier run."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / MARK).write_text("{}")
    (folder / "model.onnx").write_text("old")
    return folder


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with staging(target) as folder:
        (folder / "x").write_text("1")
        assert not target.exists()
    assert (target / "x").read_text() == "1"
    assert listing(target.parent) == {"b"}
    assert stat.S_IMODE(target.stat().st_mode) & 0o700 == 0o700


def test_an_old_folder_is_replaced_with_all_its_files(target: Path) -> None:
    with staging(target) as folder:
        (folder / MARK).write_text("new")
    assert listing(target) == {MARK}
    assert listing(target.parent) == {"out"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_a_failure_leaves_everything_as_it_was(
    target: Path, error: type[BaseException]
) -> None:
    def fail() -> None:
        with staging(target) as folder:
            (folder / "model.onnx").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert (target / "model.onnx").read_text() == "old"
    assert listing(target.parent) == {"out"}


def test_a_full_disk_is_an_export_error(target: Path) -> None:
    with pytest.raises(ExportError, match="No space left"), staging(target):
        raise OSError(28, "No space left on device")
    assert (target / "model.onnx").read_text() == "old"
    assert listing(target.parent) == {"out"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupt_between_the_two_moves_puts_the_old_folder_back(
    target: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    rename = Path.rename

    def interrupted(self: Path, to: Path) -> Path:
        if Path(to) == target and self.name != "content":
            raise error
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises((KeyboardInterrupt, ExportError)), staging(target):
        pass
    assert (target / "model.onnx").read_text() == "old"
    assert listing(target.parent) == {"out"}


def test_what_awqc_did_not_write_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="did not write"):
        check_replaceable(tmp_path / "notes")
    with pytest.raises(UsageError, match="is a file"):
        check_replaceable(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    check_replaceable(tmp_path / "empty")
    check_replaceable(tmp_path / "missing")


def test_a_parent_that_is_a_file_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="no folder that you may write to"):
        check_replaceable(tmp_path / "file" / "out")


def test_a_parent_that_cannot_be_made_is_an_export_error() -> None:
    with pytest.raises(ExportError, match="cannot be written"), staging(Path("/proc/none/out")):
        pass


def test_a_scratch_folder_goes_with_its_holder() -> None:
    scratch = ScratchFolder()
    path = scratch.path
    (path / "x").write_text("1")
    del scratch
    assert not path.exists()

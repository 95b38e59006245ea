"""A folder is replaced as a whole, or not at all."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from awqc.artifacts import exchange
from awqc.artifacts.manifest import MANIFEST, read_manifest
from awqc.artifacts.publish import staging, staging_file
from awqc.artifacts.record import recording, said
from awqc.errors import ExportError, UsageError


@pytest.fixture(params=["exchange", "renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a folder is replaced: in one step, or as on a system that has no such call."""
    if request.param == "renames":
        monkeypatch.setattr(exchange, "_renameat2", lambda: None)
    return str(request.param)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A folder of an earlier run."""
    folder = tmp_path / "out"
    with staging(folder) as made:
        (made / "model.onnx").write_text("old")
        (made / "ort").mkdir()
        (made / "ort" / "data").write_text("old too")
    return folder


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def content(folder: Path) -> dict[str, str]:
    files = {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }
    files.pop(MANIFEST)
    return files


OLD = {"model.onnx": "old", "ort/data": "old too"}


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with staging(target) as folder:
        (folder / "x").write_text("1")
        assert not target.exists()
    assert content(target) == {"x": "1"}
    assert listing(target.parent) == {"b"}


def test_what_is_written_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with staging(tmp_path / "out") as folder:
            (folder / "ort").mkdir()
            (folder / "ort" / "x").write_text("1")
            (folder / "ort" / "x").chmod(0o600)
    finally:
        os.umask(before)
    paths = [tmp_path / "out" / name for name in ("", "ort", "ort/x")]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in paths]
    assert modes == [0o750, 0o750, 0o640]


@pytest.mark.usefixtures("way")
def test_an_old_folder_is_replaced_with_all_its_files(target: Path) -> None:
    with staging(target) as folder:
        (folder / "report.json").write_text("new")
    assert content(target) == {"report.json": "new"}
    assert listing(target.parent) == {"out"}


@pytest.mark.usefixtures("way")
def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with staging(tmp_path / "out") as folder:
        (folder / "x").write_text("1")
    assert content(tmp_path / "out") == {"x": "1"}


def test_the_marker_lists_every_file_with_its_digest(target: Path) -> None:
    files = json.loads((target / MANIFEST).read_text())["files"]
    assert set(files) == set(OLD)
    # sha256 of "old"
    digest = "cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4"
    assert files["model.onnx"] == {"bytes": 3, "sha256": digest}
    assert read_manifest(target) is not None


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_a_failure_leaves_everything_as_it_was(target: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with staging(target) as folder:
            (folder / "model.onnx").write_text("half")
            raise error

    with recording() as record, pytest.raises(error):
        fail()
    assert content(target) == OLD
    assert listing(target.parent) == {"out"}
    assert said(record) == "nothing was written"


def test_a_full_disk_is_an_export_error(target: Path) -> None:
    with pytest.raises(ExportError, match="No space left"), staging(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert content(target) == OLD
    assert listing(target.parent) == {"out"}


def test_a_disk_that_cannot_be_flushed_changes_nothing(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with (
        pytest.raises(ExportError, match="Input/output error; nothing was changed"),
        staging(target) as folder,
    ):
        (folder / "x").write_text("1")
    assert content(target) == OLD
    assert listing(target.parent) == {"out"}


def test_all_is_on_the_disk_before_it_is_put_in_place(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file and folder is flushed while the old folder stands, its parent afterwards."""
    flushed: list[tuple[str, bool]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        flushed.append((path, (target / "x").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    with staging(target) as folder:
        (folder / "x").write_text("1")
        (folder / "ort").mkdir()
        (folder / "ort" / "y").write_text("1")
    before = {str(Path(path).relative_to(folder)) for path, done in flushed if not done}
    assert before == {".", "x", "ort", "ort/y", MANIFEST}
    assert [path for path, done in flushed if done] == [str(target.parent)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupt_between_the_two_renames_puts_the_old_folder_back(
    target: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    monkeypatch.setattr(exchange, "_renameat2", lambda: None)
    rename = Path.rename

    def interrupted(self: Path, to: Path) -> Path:
        if self.name == "new":
            raise error
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises((KeyboardInterrupt, ExportError)), staging(target):
        pass
    assert content(target) == OLD
    assert listing(target.parent) == {"out"}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", ["mine.txt", "ort/mine.txt", "model.onnx"])
def test_work_that_appears_during_the_run_is_not_lost(target: Path, name: str) -> None:
    def run() -> None:
        with staging(target) as folder:
            (folder / "x").write_text("1")
            (target / name).write_text("work of hours")

    with pytest.raises(UsageError, match=name):
        run()
    assert content(target) == OLD | {name: "work of hours"}
    assert listing(target.parent) == {"out"}


@pytest.mark.usefixtures("way")
def test_work_that_appears_at_the_last_moment_is_not_lost(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last look at the old folder, and before the exchange."""
    swap = exchange.exchange

    def late(one: Path, two: Path) -> bool:
        if (one / "x").exists():
            (two / "mine.txt").write_text("work of hours")
        return swap(one, two)

    monkeypatch.setattr("awqc.artifacts.publish.exchange", late)

    def run() -> None:
        with staging(target) as folder:
            (folder / "x").write_text("1")

    with pytest.raises(UsageError, match=r"mine\.txt"):
        run()
    assert content(target) == OLD | {"mine.txt": "work of hours"}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("there", [True, False])
def test_of_two_at_once_each_is_whole_and_one_is_last(tmp_path: Path, there: bool) -> None:
    target, barrier = tmp_path / "out", threading.Barrier(4)
    refused: list[BaseException] = []
    if there:
        with staging(target) as folder:
            (folder / "x").write_text("old")

    def run(index: int) -> None:
        try:
            for _ in range(10):
                with staging(target) as folder:
                    for part in range(5):
                        (folder / f"{index}-{part}").write_text(str(index))
                    barrier.wait(30)
        except (UsageError, ExportError) as error:
            refused.append(error)
            barrier.abort()
        except threading.BrokenBarrierError:
            pass

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = content(target)
    assert len(set(found.values())) == 1
    assert len(found) == 5
    assert listing(tmp_path) == {"out"}
    assert not [str(e) for e in refused if "other runs" not in str(e)]


def test_nothing_in_a_result_is_an_empty_folder(tmp_path: Path) -> None:
    for _ in range(2):
        with staging(tmp_path / "out") as folder:
            (folder / "a" / "b").mkdir(parents=True)
            (folder / "x").write_text("1")
    assert content(tmp_path / "out") == {"x": "1"}
    assert not (tmp_path / "out" / "a").exists()


def test_a_parent_that_cannot_be_made_is_an_export_error() -> None:
    with pytest.raises(ExportError, match="cannot be written"), staging(Path("/proc/none/out")):
        pass


def test_the_longest_name_that_there_is(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 255)
    for text in "12":
        with staging(target) as folder:
            (folder / "x").write_text(text)
        assert content(target) == {"x": text}


def test_a_file_appears_whole_and_an_old_one_stays_on_failure(tmp_path: Path) -> None:
    path = tmp_path / "stats"

    def fail() -> None:
        with staging_file(path) as made:
            made.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert listing(tmp_path) == set()
    with recording() as record, staging_file(path) as made:
        made.write_text("whole")
    assert said(record).endswith("stats had been written")
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "whole"
    assert listing(tmp_path) == {"stats"}


def test_a_file_behind_a_link_is_written_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    with staging_file(tmp_path / "link") as made:
        made.write_text("1")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "1"

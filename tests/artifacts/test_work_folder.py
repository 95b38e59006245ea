"""A work folder is one compile's: it is whole, it is nobody else's, and it holds nothing else."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

from awqc.artifacts import work_folder
from awqc.artifacts.leftovers import clear_leftovers
from awqc.artifacts.manifest import MANIFEST
from awqc.artifacts.publish import staging
from awqc.artifacts.work_folder import DIGEST, HEADER, WorkFolder, work_folder_beside
from awqc.errors import ExportError, UsageError
from tests.processes import Processes

WHAT = {"awqc": "1.0", "data": f"{DIGEST}abc", "tensor a": f"{DIGEST}1"}


def taken(
    path: Path, fresh: bool = False, other: Mapping[str, str] = MappingProxyType({})
) -> WorkFolder:
    folder = WorkFolder(path)
    folder.take({**WHAT, **other}, fresh)
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder with two records, left behind."""
    folder = taken(tmp_path / "work")
    for number in (1, 2):
        folder.add(f"segment-{number}", {"values": torch.full((3,), number)})
    folder.release()
    return folder.path


def test_the_same_compile_finds_what_was_kept(work: Path) -> None:
    folder = taken(work)
    assert folder.names() == ["segment-1", "segment-2"]
    assert folder.damaged() == []
    assert torch.equal(folder.read("segment-2")["values"], torch.full((3,), 2))


def test_the_folder_goes_when_all_is_done(work: Path) -> None:
    taken(work).remove()
    assert not work.exists()


def test_a_folder_that_was_not_taken_stays(work: Path) -> None:
    WorkFolder(work).remove()
    assert taken(work).names() == ["segment-1", "segment-2"]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("awqc", "2.0", "another compile: awqc: 1.0 there, 2.0 now; give fresh=True"),
        ("data", f"{DIGEST}xyz", "another compile: other data; give"),
        ("tensor b", f"{DIGEST}1", "another compile: other tensor b; give"),
        ("passes", "fold", "another compile: passes: none there, fold now; give"),
    ],
)
def test_another_compile_is_told_what_differs(work: Path, name: str, value: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        taken(work, other={name: value})
    assert told in str(caught.value)
    assert str(caught.value).endswith("or give another folder with work_dir to keep it")
    assert taken(work).names() == ["segment-1", "segment-2"]


def test_much_that_differs_is_counted(work: Path) -> None:
    others = {f"tensor {n}": f"{DIGEST}{n}" for n in range(6)}
    with pytest.raises(UsageError, match=r"other tensor 0, other tensor 1, .* 2 and 3 more; give"):
        taken(work, other=others)


def test_fresh_starts_anew_whoever_was_there(work: Path) -> None:
    folder = taken(work, fresh=True, other={"awqc": "2.0"})
    assert folder.names() == []
    folder.release()
    assert {path.name for path in work.iterdir()} == {MANIFEST, HEADER}
    assert taken(work, other={"awqc": "2.0"}).names() == []


@pytest.mark.parametrize("damage", [b"", b"half", None])
def test_a_damaged_record_is_not_there(work: Path, damage: bytes | None) -> None:
    file = work / "segment-1.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content if damage is None else damage)
    folder = taken(work)
    assert folder.names() == ["segment-2"]
    assert folder.damaged() == ["segment-1"]
    folder.add("segment-1", {"values": 5})
    assert folder.names() == ["segment-1", "segment-2"]
    assert folder.read("segment-1") == {"values": 5}


def test_a_header_that_cannot_be_read_is_refused(work: Path) -> None:
    for break_it in (lambda: (work / HEADER).write_text("{"), (work / HEADER).unlink):
        break_it()
        with pytest.raises(
            UsageError, match=r"compile\.json, .* is damaged or missing; give fresh"
        ):
            taken(work)
    assert taken(work, fresh=True).names() == []


def test_two_at_once_do_not_mix(work: Path) -> None:
    folder = taken(work)
    with pytest.raises(UsageError, match="another compile is at work there; wait until it"):
        WorkFolder(work)
    folder.add("segment-3", 3)
    folder.release()
    assert "segment-3" in taken(work).names()


def test_one_that_is_taken_while_another_looks_is_refused(tmp_path: Path) -> None:
    second = WorkFolder(tmp_path / "work")
    first = taken(tmp_path / "work")
    with pytest.raises(UsageError, match="another compile is at work there"):
        second.take(WHAT, False)
    first.remove()
    second.take(WHAT, False)
    assert second.names() == []


def test_a_killed_process_holds_nothing(work: Path, processes: Processes, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from awqc.artifacts.work_folder import WorkFolder\n"
        f"folder = WorkFolder(Path(sys.argv[1])); folder.take({WHAT!r}, False)\n"
        "folder.add('segment-3', 3); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = processes.start(code, [str(work)], cwd=tmp_path, env={}).wait()
    assert done.returncode == -9, done.stderr
    assert taken(work).names() == ["segment-1", "segment-2", "segment-3"]


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["mine.txt", "segment-9.safetensors", "notes/mine", "mine.json"])
def test_files_that_awqc_did_not_write_stop_it(work: Path, name: str, fresh: bool) -> None:
    (work / name).parent.mkdir(exist_ok=True)
    (work / name).write_text("mine")
    with pytest.raises(UsageError, match=f"holds what is no work of a compile: {name}; move it"):
        taken(work, fresh)
    assert (work / name).read_text() == "mine"


def test_a_result_is_no_work_folder(tmp_path: Path) -> None:
    with staging(tmp_path / "out") as made:
        (made / "model.onnx").write_text("1")
    with pytest.raises(UsageError, match=r"holds what is no work of a compile: model\.onnx"):
        taken(tmp_path / "out", fresh=True)


def test_work_that_appears_meanwhile_is_not_removed(work: Path) -> None:
    folder = taken(work)
    (work / "mine.txt").write_text("mine")
    folder.remove()
    assert [path.name for path in work.iterdir()] == ["mine.txt"]


def test_it_lies_apart_from_what_the_run_uses(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("1")
    out = tmp_path / "out"
    for place, used, how in (
        ("out", out, "is"),
        ("out/work", out, "lies in"),
        ("model", tmp_path / "model", "is"),
        ("model/work", tmp_path / "model", "lies in"),
        (".", out, "holds"),
    ):
        with pytest.raises(UsageError, match=rf"work_dir .*: {how} .*; give another folder with"):
            WorkFolder(tmp_path / place, [used])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_place_where_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    for place in ("file", "file/work"):
        with pytest.raises(UsageError, match="is no folder that you may write to"):
            WorkFolder(tmp_path / place)


def no_room(tree: Any, path: Path) -> None:
    """Write ``tree`` to a disk that is full."""
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_loses_nothing_that_was_kept(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_folder, "write_tensor_tree", no_room)
    folder = taken(work)
    with pytest.raises(
        ExportError,
        match=r"segment-3\.safetensors could not be written: No space left on device; what was "
        "kept before still is. Make room there, or give another folder with work_dir",
    ):
        folder.add("segment-3", 3)
    folder.release()
    again = taken(work)
    assert again.names() == ["segment-1", "segment-2"]
    assert again.damaged() == []
    assert {path.name for path in work.iterdir()} == {
        MANIFEST, HEADER, "segment-1.safetensors", "segment-2.safetensors",
    }  # fmt: skip


def test_what_clears_leftovers_knows_work_that_can_go_on(tmp_path: Path) -> None:
    place = work_folder_beside(tmp_path / "awqc-0123456789abcdef")
    taken(place).release()
    clear_leftovers(tmp_path)
    assert (place / HEADER).is_file()


def test_the_longest_name_that_there_is(tmp_path: Path) -> None:
    place = work_folder_beside(tmp_path / ("n" * 255))
    taken(place).add("segment-1", 1)
    assert os.listdir(tmp_path) == [place.name]
    assert place.name.startswith(".")

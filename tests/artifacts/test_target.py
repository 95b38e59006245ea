"""What may be replaced, and what stops a run before it does any work."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest

from awqc.artifacts.manifest import MANIFEST
from awqc.artifacts.publish import staging
from awqc.artifacts.target import prepare_file, prepare_folder
from awqc.errors import UsageError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a result ``out`` and a model beside it."""
    monkeypatch.chdir(tmp_path)
    with staging(Path("out")) as folder:
        (folder / "model.onnx").write_text("old")
        (folder / "ort").mkdir()
        (folder / "ort" / "data").write_text("old too")
    Path("model.pt").write_text("model")
    return tmp_path


def refused(path: str | Path, *used: str | Path) -> str:
    with pytest.raises(UsageError) as caught:
        prepare_folder(Path(path), [Path(name) for name in used])
    return str(caught.value)


def test_nothing_an_empty_folder_and_an_own_one_may_be_replaced(here: Path) -> None:
    Path("empty").mkdir()
    for name in ("new", "a/b/new", "empty", "out", "./out", "a/../out", "out/../out", "out/"):
        prepare_folder(Path(name), [Path("model.pt")])
    assert prepare_folder(Path("out/../out")) == here / "out"


def test_an_own_folder_may_be_copied_moved_and_thinned_out(here: Path) -> None:
    shutil.copytree("out", "copy")
    (here / "out" / "model.onnx").unlink()
    os.utime(here / "copy" / "model.onnx", (0, 0))
    Path("out").rename("moved")
    prepare_folder(Path("copy"))
    prepare_folder(Path("moved"))


@pytest.mark.parametrize("name", ["mine.txt", "ort/mine.txt", ".mine", "notes/mine.txt"])
def test_files_that_awqc_did_not_write_stop_it(here: Path, name: str) -> None:
    path = here / "out" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    assert f"holds files that awqc did not write: {name}; move them elsewhere" in refused("out")
    assert path.read_text() == "mine"


@pytest.mark.usefixtures("here")
def test_folders_links_and_pipes_are_others_work_too() -> None:
    Path("out/notes").mkdir()
    assert "did not write: notes/" in refused("out")
    Path("out/notes").rmdir()
    Path("out/link").symlink_to("model.onnx")
    Path("out/folder").symlink_to("ort")
    assert "did not write: folder, link" in refused("out")
    Path("out/link").unlink()
    Path("out/folder").unlink()
    os.mkfifo("out/pipe")
    assert "did not write: pipe" in refused("out")


@pytest.mark.usefixtures("here")
def test_many_files_are_counted() -> None:
    for index in range(9):
        Path(f"out/{index}").write_text("")
    assert "0, 1, 2 and 6 more; move" in refused("out")


@pytest.mark.parametrize("text", ["new", "longer than it was"])
def test_files_that_were_changed_since_stop_it(here: Path, text: str) -> None:
    path = here / "out" / "ort" / "data"
    state = path.stat()
    path.write_text(text)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    message = refused("out")
    assert "changed since awqc wrote them: ort/data; replacing the folder would lose" in message
    assert path.read_text() == text


def test_a_file_in_place_of_which_a_link_stands_is_changed(here: Path) -> None:
    (here / "out" / "model.onnx").rename(here / "kept")
    (here / "out" / "model.onnx").symlink_to(here / "kept")
    assert "changed since awqc wrote them: model.onnx" in refused("out")


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"schema": 2, "files": {}}', '{"schema": 1, "files": {"x": 3}}',
        '{"schema": 1, "files": []}', "[" * 100_000, "\x00",
        '{"schema": 1, "files": {"../model.pt": {"bytes": 5, "sha256": "9"}}}',
        '{"schema": 1, "files": {"/etc/hosts": {"bytes": 5, "sha256": "9"}}}',
    ],
)  # fmt: skip
def test_a_marker_that_says_nothing_makes_no_folder_ours(here: Path, text: str) -> None:
    (here / "out" / MANIFEST).write_text(text)
    assert "holds files that awqc did not write: model.onnx, ort/data" in refused("out")


def test_a_folder_of_an_earlier_version_is_refused_with_what_to_do(here: Path) -> None:
    (here / "out" / MANIFEST).unlink()
    (here / "out" / "report.json").write_text("{}")
    message = refused("out")
    assert "output of an earlier awqc, which kept no list of what it wrote" in message
    assert MANIFEST in message
    assert "If it holds nothing that you need, delete the folder; else give another" in message


@pytest.mark.parametrize(
    ("used", "what"),
    [
        ("out/model.onnx", "holds out/model.onnx"),
        ("out/ort/../model.onnx", "holds out/ort/../model.onnx"),
        ("out/ort", "holds out/ort"),
        ("out/not-yet", "holds out/not-yet"),
        ("link", "holds link"),
        ("chain", "holds chain"),
        ("folder/data", "holds folder/data"),
        ("hard", "holds hard"),
        ("hub", "holds hub"),
        ("out", "is out"),
        (".", "lies in ."),
        ("..", "lies in .."),
    ],
)  # fmt: skip
def test_what_is_read_is_never_replaced(here: Path, used: str, what: str) -> None:
    Path("link").symlink_to("out/model.onnx")
    Path("chain").symlink_to(here / "link")
    Path("folder").symlink_to("out/ort")
    Path("hub").mkdir()
    Path("hub/model.safetensors").symlink_to("../out/ort/data")
    os.link("out/model.onnx", "hard")
    message = refused("out", "model.pt", used)
    assert f"out: {what}, which this run reads or writes itself; give" in message


def test_a_link_in_the_target_is_on_the_way_to_what_is_read(here: Path) -> None:
    """The model is elsewhere, but the name that it is read by would be gone."""
    Path("outer").symlink_to("out/inner")
    (here / "out" / "inner").symlink_to(here / "model.pt")
    with pytest.raises(UsageError, match="did not write: inner"):
        prepare_folder(Path("out"), [Path("outer")])


def test_a_target_in_the_folder_of_the_model_is_refused(here: Path) -> None:
    Path("model").mkdir()
    Path("alias").symlink_to("model")
    for target in ("model/out", "alias/out", "model/a/b", "./model/../model/out"):
        for used in ("model", "alias", here / "model"):
            assert "lies in " in refused(target, used)
    prepare_folder(Path("model-out"), [Path("model")])


@pytest.mark.usefixtures("here")
def test_what_is_beside_is_not_in_the_way() -> None:
    Path("out2").mkdir()
    Path("out2/model.pt").write_text("")
    Path("to-out2").symlink_to("out2/model.pt")
    used = [Path(name) for name in ("out2", "to-out2", "out/../model.pt", "missing", "out-model")]
    prepare_folder(Path("out"), used)


@pytest.mark.usefixtures("here")
def test_a_target_that_is_no_folder_is_refused() -> None:
    os.mkfifo("pipe")
    Path("link").symlink_to("out")
    Path("broken").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for name, what in {
            "model.pt": "is a file", "pipe": "is a pipe", "socket": "is a socket",
            "/dev/null": "is a device", "/dev/full": "is a device",
            "link": "is a symbolic link to out", "broken": "is a symbolic link to nowhere",
            "/": "is a mount point", "/proc": "is a mount point",
            "model.pt/out": "no folder that you may write to",
        }.items():  # fmt: skip
            assert what in refused(name), name
    assert {"pipe", "socket", "link", "broken"} <= set(os.listdir())


@pytest.mark.usefixtures("here")
def test_a_file_of_statistics_is_a_file_or_nothing() -> None:
    os.mkfifo("pipe")
    Path("link").symlink_to("stats")
    for name in ("stats", "model.pt", "link"):
        prepare_file(Path(name), "--stats")
    for name, what in {
        "pipe": "is a pipe", "/dev/null": "is a device", "out": "is a folder",
        "nowhere/stats": "nowhere is no folder that you may write to",
        "model.pt/stats": "model.pt is no folder that you may write to",
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match=f"--stats {name}: .*{what}"):
            prepare_file(Path(name), "--stats")


LOOKS = {os.stat, os.lstat, os.listdir, os.scandir, os.readlink, open}
"""What asks the system about a path."""


def looks(path: Path, away_at: int | None = None) -> int:
    """How often `prepare_folder` asks the system; at one time ``path`` is elsewhere for a moment.

    As it is while another run replaces it by two renames, and then fails and puts it back.
    """
    count, aside = 0, path.with_name("aside")

    def profile(frame: object, event: str, called: object) -> None:
        nonlocal count
        if event == "c_call" and called in LOOKS:
            if count == away_at:
                path.rename(aside)
            count += 1
        elif event in ("c_return", "c_exception") and called in LOOKS and aside.is_dir():
            aside.rename(path)

    sys.setprofile(profile)
    try:
        prepare_folder(path)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.usefixtures("here")
def test_a_folder_that_is_elsewhere_for_a_moment_is_still_awqc_s() -> None:
    out = Path("out")
    for look in range(looks(out)):
        time.sleep(0.005)  # A rename in the same tick of the file system's clock shows nowhere.
        try:
            looks(out, look)
        except UsageError as error:
            assert "other runs write there" in str(error)  # noqa: PT017 - or it is not refused
        assert (out / MANIFEST).is_file()

"""What a killed run left is removed; what lives, or is somebody else's, is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from awqc.artifacts.claims import ASIDE, HIDDEN, NOTE, SCRATCH, SUFFIX, Claim
from awqc.artifacts.leftovers import clear_leftovers

ROOT = Path(__file__).parents[2]
HELD = """
import sys
from pathlib import Path
from awqc.artifacts.claims import Claim
claim = Claim(Path(sys.argv[1]))
(claim.new / "x").write_text("1")
print(claim.path, flush=True)
sys.stdin.read()
"""


def leftover(folder: Path, name: str = f"{HIDDEN}0123456789abcdef", note: bytes = NOTE) -> Path:
    """What a process leaves that is killed."""
    (folder / name / "new").mkdir(parents=True)
    (folder / name / "new" / "x").write_text("1")
    (folder / f"{name}{SUFFIX}").write_bytes(note)
    return folder / name


@pytest.mark.parametrize("prefix", [HIDDEN, SCRATCH])
def test_what_a_killed_run_left_is_removed(tmp_path: Path, prefix: str) -> None:
    leftover(tmp_path, f"{prefix}0123456789abcdef")
    leftover(tmp_path, f"{prefix}1123456789abcdef", note=b"")
    (tmp_path / f"{prefix}2123456789abcdef{SUFFIX}").write_bytes(NOTE)
    clear_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_held_in_this_process_stays(tmp_path: Path) -> None:
    claim = Claim(tmp_path)
    clear_leftovers(tmp_path)
    assert claim.new.is_dir()
    claim.release()
    assert list(tmp_path.iterdir()) == []
    claim.release()


def test_what_another_process_holds_stays_until_it_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HELD, tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        clear_leftovers(tmp_path)
        assert (path / "new" / "x").read_text() == "1"
        process.kill()
        process.wait()
        assert path.is_dir()
        clear_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_forked_process_does_not_remove_what_its_parent_holds(tmp_path: Path) -> None:
    claim = Claim(tmp_path)
    child = os.fork()
    if child == 0:
        claim.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert claim.new.is_dir()
    claim.release()


@pytest.mark.parametrize(
    ("name", "note"),
    [
        (f"{HIDDEN}0123456789abcdef", b"my own notes"),
        (f"{HIDDEN}0123456789abcdef", NOTE + b"and more"),
        (f"{HIDDEN}0123456789abcdeg", NOTE),
        (f"{SCRATCH}results", NOTE),
        (f"{SCRATCH}results", b""),
        (f"my-{SCRATCH}0123456789abcdef", NOTE),
    ],
)
def test_what_is_not_ours_stays(tmp_path: Path, name: str, note: bytes) -> None:
    path = leftover(tmp_path, name, note)
    clear_leftovers(tmp_path)
    assert (path / "new" / "x").is_file()


def test_folders_without_a_lock_file_stay(tmp_path: Path) -> None:
    (tmp_path / f"{SCRATCH}0123456789abcdef").mkdir()
    clear_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_links_and_pipes_in_place_of_a_lock_are_not_followed(tmp_path: Path) -> None:
    names = [f"{HIDDEN}{digit}123456789abcdef{SUFFIX}" for digit in "012"]
    (tmp_path / "precious").write_bytes(NOTE)
    (tmp_path / names[0]).symlink_to("precious")
    os.mkfifo(tmp_path / names[1])
    (tmp_path / names[2]).mkdir()
    clear_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"precious", *names}


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "x").write_text("1")
    name = f"{HIDDEN}0123456789abcdef"
    (tmp_path / name).symlink_to("precious")
    (tmp_path / f"{name}{SUFFIX}").write_bytes(NOTE)
    clear_leftovers(tmp_path)
    assert (tmp_path / "precious" / "x").is_file()


def test_a_target_that_was_moved_aside_is_put_back(tmp_path: Path) -> None:
    aside = leftover(tmp_path) / ASIDE / "out"
    aside.mkdir(parents=True)
    (aside / "x").write_text("old")
    clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "x").read_text() == "old"


def test_a_target_that_has_a_successor_is_not_put_back(tmp_path: Path) -> None:
    aside = leftover(tmp_path) / ASIDE / "out"
    aside.mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("new")
    clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "x").read_text() == "new"


def test_a_folder_that_cannot_be_read_is_no_error(tmp_path: Path) -> None:
    clear_leftovers(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    clear_leftovers(tmp_path / "file")

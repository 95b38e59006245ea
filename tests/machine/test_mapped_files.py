"""A file that is written to while it is mapped is noticed; one that is replaced does no harm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from awqc.errors import CaptureError
from awqc.machine.memory import check_mapped_files, map_private
from tests.commands.test_cli import environment
from tests.processes import Processes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """With two pages."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(8192))
    return path


def mapped(path: Path) -> memoryview:
    with path.open("rb") as opened:
        return map_private(opened, 0, 8192)


@pytest.mark.parametrize("content", [bytes(8192), b"short"])
def test_a_file_that_is_written_to_is_named(file: Path, content: bytes) -> None:
    held = mapped(file)
    check_mapped_files()
    file.write_bytes(content)
    os.utime(file, ns=(0, 0))  # whatever the clock says
    with pytest.raises(CaptureError, match=r"weights: was written to while it was read; start"):
        check_mapped_files()
    del held
    check_mapped_files()


def test_it_is_told_once_and_not_to_what_comes_later(file: Path) -> None:
    """Who was told may still hold the file; the next compile of the process reads another."""
    held = mapped(file)
    os.utime(file, ns=(0, 0))
    with pytest.raises(CaptureError, match="was written to"):
        check_mapped_files()
    check_mapped_files()
    other = file.with_name("other")
    other.write_bytes(bytes(8192))
    also_held = mapped(other)
    os.utime(other, ns=(0, 0))
    with pytest.raises(CaptureError, match="other: was written to"):
        check_mapped_files()
    assert len(held) == len(also_held) == 8192


@pytest.mark.parametrize("there", [True, False])
def test_another_file_in_its_place_or_none_does_no_harm(file: Path, there: bool) -> None:
    held = mapped(file)
    if there:
        other = file.with_name("other")
        other.write_bytes(b"other")
        other.replace(file)
    else:
        file.unlink()
    check_mapped_files()
    assert bytes(held) == bytes(8192)


LOSES_A_PAGE = """
import os, sys
from pathlib import Path
from awqc.machine.memory import map_private
from awqc.machine.stopping import tell_lost_pages
tell_lost_pages()
path = Path(sys.argv[1])
with path.open("rb") as opened:
    held = map_private(opened, 0, 8192)
os.truncate(path, 1)
held[5000]
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_a_page_that_is_gone_ends_the_command_with_words(file: Path, processes: Processes) -> None:
    done = processes.start(LOSES_A_PAGE, [str(file)], cwd=file.parent, env=environment()).wait()
    assert done.returncode == 1
    assert done.stderr.startswith("awqc: error: a file became shorter while it was read")

"""Tricks with zip files: names, frames, sizes."""

from __future__ import annotations

import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from awqc.capture.archive import load_archive
from awqc.errors import CaptureError, UsageError
from awqc.pt2.members import open_members
from tests.pt2.attacks import INPUTS, MODEL, Files, good, write

WEIGHT = "data/weights/weight_0"


@pytest.fixture(scope="module")
def files() -> Files:
    return good()


def refused(path: Path, message: str, kind: type[Exception] = UsageError) -> None:
    with pytest.raises(kind, match=message):
        load_archive(path, trust=False)


@pytest.mark.parametrize(
    "name",
    [
        "data/sample_inputs/MODEL.pt", "Models/model.json", "models/model.JSON",
        "DATA/weights/weight_0", "data/weights/model_weights_config.jſon",
        "models/other.json", "models/model.json/", "models//model.json", "models/./model.json",
        "data/sample_inputs/other.pt", "data/weights/weight_00", "data/weights/weight_x",
        "data/weights/weight_0 ", "data/weights/../weights/weight_0", "../weights", "/etc/passwd",
        "data/aotinductor/model/model.so", "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0", "extra/../x", "extra/.x", "extra/a/b", "code/x.py",
        "serialized_state_dict.json", "C:\\\\x", "data\\\\weights\\\\weight_0", "",
    ],
)  # fmt: skip
def test_a_name_that_is_not_on_the_list(tmp_path: Path, files: Files, name: str) -> None:
    refused(write(tmp_path / "a.pt2", {**files, name: b"x"}), "the archive holds")


@pytest.mark.parametrize("root", ["/", "../", "other/archive/", "archive", ""])
def test_another_root(tmp_path: Path, files: Files, root: str) -> None:
    refused(write(tmp_path / "a.pt2", files, root), "not part of a plain archive")


def test_two_roots(tmp_path: Path, files: Files) -> None:
    path = write(tmp_path / "a.pt2", files)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"other/{MODEL}", b"{}")
    refused(path, "not part of a plain archive")


def test_two_members_of_one_name(tmp_path: Path, files: Files) -> None:
    path = write(tmp_path / "a.pt2", files)
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(f"archive/{INPUTS}", b"evil")
    refused(path, "two entries of the same name")


def test_a_name_with_a_zero_byte(tmp_path: Path, files: Files) -> None:
    """zipfile cuts names there; another reader may not."""
    path = write(tmp_path / "a.pt2", {**files, "extra/aXb": b"x"})
    path.write_bytes(path.read_bytes().replace(b"extra/aXb", b"extra/a\0b"))
    refused(path, "not part of a plain archive")


def test_compressed_members(tmp_path: Path, files: Files) -> None:
    path = tmp_path / "a.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**files, WEIGHT: bytes(2**24)}.items():
            archive.writestr(f"archive/{name}", content)
    assert path.stat().st_size < 2**17
    refused(path, "a compressed entry")


Change = Callable[[bytearray, int, int], None]
"""Takes the file, and where the local and the central header of a member begin."""


def encrypted(data: bytearray, local: int, central: int) -> None:
    data[local + 6] |= 1
    data[central + 8] |= 1


def other_local_name(data: bytearray, local: int, central: int) -> None:
    data[local + 30 + len("archive/")] ^= 0x20


def other_content(data: bytearray, local: int, central: int) -> None:
    data[local + 30 + len(f"archive/{WEIGHT}")] ^= 1


def huge(data: bytearray, local: int, central: int) -> None:
    for place in (central + 20, central + 24):
        data[place : place + 4] = struct.pack("<I", 2**31)


def grown(data: bytearray, local: int, central: int) -> None:
    data[central + 24 : central + 28] = struct.pack("<I", 2**20)


def overlapping(data: bytearray, local: int, central: int) -> None:
    data[central + 42 : central + 46] = struct.pack("<I", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (encrypted, "an encrypted entry"),
        (other_local_name, "differ"),
        (other_content, "CRC"),
        (huge, "entries that share their bytes|damaged"),
        (grown, "a compressed entry"),
        (overlapping, "damaged"),
    ],
)
def test_headers_that_lie(tmp_path: Path, files: Files, change: Change, message: str) -> None:
    path = write(tmp_path / "a.pt2", files)
    data = bytearray(path.read_bytes())
    name = f"archive/{WEIGHT}".encode()
    local = data.index(name) - 30
    central = data.rindex(name) - 46
    assert data[local : local + 4] == b"PK\x03\x04"
    assert data[central : central + 4] == b"PK\x01\x02"
    if change is overlapping:  # the model is where the first member is
        central = data.rindex(f"archive/{MODEL}".encode()) - 46
    change(data, local, central)
    path.write_bytes(data)
    with pytest.raises((UsageError, CaptureError), match=message):
        load_archive(path, trust=False)


def test_bytes_around_the_zip_file(tmp_path: Path, files: Files) -> None:
    path = write(tmp_path / "a.pt2", files)
    content = path.read_bytes()
    path.write_bytes(b"#!/bin/sh\n" + content)
    refused(path, "bytes before the first entry")
    path.write_bytes(content + b"more")
    refused(path, "bytes after the end")
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = b"more"
        archive.writestr("archive/archive_format", b"pt2")
    refused(path, "bytes after the end")


@pytest.mark.parametrize("size", [0, 10, 1000, -1, -30])
def test_a_file_that_is_cut_short(tmp_path: Path, files: Files, size: int) -> None:
    path = write(tmp_path / "a.pt2", files)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises((CaptureError, UsageError)):
        load_archive(path, trust=False)


@pytest.mark.parametrize(
    ("name", "content"),
    [("archive_format", b"pt3"), ("byteorder", b"big"), ("byteorder", None), (MODEL, None),
     (INPUTS, None), (WEIGHT, None)],
)  # fmt: skip
def test_a_member_that_is_missing_or_other(
    tmp_path: Path, files: Files, name: str, content: bytes | None
) -> None:
    changed = {key: value for key, value in files.items() if key != name}
    if content is not None:
        changed[name] = content
    refused(write(tmp_path / "a.pt2", changed), "damaged: ", CaptureError)


def test_content_is_read_from_the_file_that_was_checked(tmp_path: Path, files: Files) -> None:
    path = write(tmp_path / "a.pt2", files)
    with open_members(path) as members:
        path.unlink()
        write(path, {**files, WEIGHT: b"evil"})
        assert members.read(WEIGHT) == files[WEIGHT] == bytes(members.read_raw(WEIGHT).numpy())

"""Files of arrays that are damaged, locked, or expand beyond measure end with a message."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from awqc.data.array_files import read_arrays
from awqc.errors import CalibrationError


def good(path: Path) -> bytearray:
    np.savez(path, input=np.arange(2048, dtype=np.float32).reshape(64, 32))
    return bytearray(path.read_bytes())


def encrypted(path: Path) -> None:
    content = good(path)
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def flipped(path: Path) -> None:
    content = good(path)
    content[1000] ^= 255
    path.write_bytes(content)


def claiming(shape: tuple[int, ...], size: int) -> bytes:
    header = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue() + bytes(size)


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("input.npy", claiming((2**34, 32), 4096))


def swollen(path: Path) -> None:
    """A directory that says one member has 2**40 bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("input.npy", claiming((2, 2), 16))
        archive.infolist()[0].file_size = 2**40


def negative(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("input.npy", claiming((-1, 32), 0))


def no_utf8(path: Path) -> None:
    """A name that is said to be UTF-8, and is none."""
    content = good(path)
    start = content.index(b"PK\x01\x02")
    content[start + 9] |= 8
    content[start + 46] = 0xF7
    path.write_bytes(content)


def empty_member(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("input.npy", b"")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (encrypted, "'input.npy' is encrypted"),
        (flipped, "checksum of 'input.npy' is wrong"),
        (bomb, "cannot be read: Unable to allocate"),
        (swollen, r"expands to 1099.5 GB, .* GB are free"),
        (negative, "cannot be read"),
        (no_utf8, "is damaged: 'utf-8' codec"),
        (empty_member, "'input' is a bytes; a tensor is needed"),
    ],
)
def test_an_npz_is_refused(make: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    assert callable(make)
    make(path)
    with pytest.raises(CalibrationError, match=message):
        read_arrays(path)


def test_a_whole_npz_is_read(tmp_path: Path) -> None:
    good(tmp_path / "data.npz")
    assert read_arrays(tmp_path / "data.npz")["input"].shape == (64, 32)

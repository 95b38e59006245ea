"""The members of an archive: a zip file of stored entries, whose names are on a list."""

from __future__ import annotations

import os
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from awqc.pt2.failures import DamagedError, NotAllowedError

MODEL = "models/model.json"
INPUTS = "data/sample_inputs/model.pt"
FOLDERS = {"weights": "weight_", "constants": "tensor_"}
NUMBER = r"(?:0|[1-9][0-9]{0,8})"
_ALLOWED = re.compile(
    r"archive_format|archive_version|byteorder|version|\.format_version|\.storage_alignment"
    r"|\.data/(?:version|serialization_id)"
    rf"|{re.escape(MODEL)}|{re.escape(INPUTS)}"
    rf"|data/weights/(?:model_weights_config\.json|weight_{NUMBER})"
    rf"|data/constants/(?:model_constants_config\.json|tensor_{NUMBER})"
    r"|extra/[A-Za-z0-9_-][A-Za-z0-9_. -]*"
)
_KNOWN = (
    ("data/aotinductor/", "a compiled library"),
    ("data/constants/custom_obj_", "a pickled object"),
    ("data/constants/opaque_obj_", "a pickled object"),
    ("serialized_", "the format of torch before 2.8, whose weights are a pickle"),
    ("data/weights/model.pt", "the weights as a pickle, as torch before 2.9 wrote them"),
    ("data/constants/model.pt", "the constants as a pickle, as torch before 2.9 wrote them"),
)
_CHUNK = 2**22
_END = (b"PK\x05\x06", 22)


class Members:
    """What an open archive holds, by the names that follow its root folder."""

    def __init__(self, archive: zipfile.ZipFile, infos: dict[str, zipfile.ZipInfo]) -> None:
        self._archive = archive
        self._infos = infos

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def size(self, name: str) -> int:
        """Bytes of the member.

        Raises:
            DamagedError: there is none of that name.
        """
        if name not in self._infos:
            raise DamagedError(f"{name} is missing")
        return self._infos[name].file_size

    def read(self, name: str) -> bytes:
        """The content of a member, its checksum verified.

        Raises:
            DamagedError: there is none of that name.
        """
        self.size(name)
        return self._archive.read(self._infos[name])

    def read_raw(self, name: str) -> Tensor:
        """The content as uint8 ``(bytes,)``, its checksum verified, in memory of its own."""
        content = torch.empty(self.size(name), dtype=torch.uint8)
        view, start = memoryview(content.numpy().data), 0
        with self._archive.open(self._infos[name]) as file:
            while start < len(view):
                part = file.read(_CHUNK)
                if not part:
                    raise DamagedError(f"{name} is cut short")
                view[start : start + len(part)] = part
                start += len(part)
        return content


@contextmanager
def open_members(path: Path) -> Iterator[Members]:
    """Open the archive at ``path``, once, after its directory has been checked.

    Raises:
        NotAllowedError: it holds a member that is not on the list.
        DamagedError: it is no zip file as torch writes it.
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    with path.open("rb") as file, _opened(file) as archive:
        infos = archive.infolist()
        _check_frame(file, archive, infos)
        members = Members(archive, _by_name(infos))
        for name, wanted in (("archive_format", b"pt2"), ("byteorder", b"little")):
            if members.size(name) != len(wanted) or members.read(name) != wanted:
                raise DamagedError(f"{name} is not {wanted.decode()!r}")
        yield members


def _opened(file: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (ValueError, NotImplementedError, struct.error) as error:  # A damaged directory.
        raise DamagedError(str(error)) from error


def _check_frame(file: IO[bytes], archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo]) -> None:
    """Entries are stored, plain, and fill the file from its first byte to its last."""
    length = file.seek(0, os.SEEK_END)
    file.seek(max(length - _END[1], 0))
    if archive.comment or not file.read().startswith(_END[0]):
        raise NotAllowedError("bytes after the end of the zip file")
    if not infos or min(info.header_offset for info in infos):
        raise NotAllowedError("bytes before the first entry of the zip file")
    for info in infos:
        if info.flag_bits & 0x1:
            raise NotAllowedError(f"an encrypted entry ({info.filename})")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise NotAllowedError(f"a compressed entry ({info.filename}), which torch never writes")
    if sum(info.file_size for info in infos) > length:
        raise NotAllowedError("entries that share their bytes")


def _by_name(infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    names = [info.orig_filename for info in infos]
    if len({name.lower() for name in names}) != len(names):
        raise NotAllowedError("two entries of the same name")
    root, slash, _ = names[0].partition("/")
    found = {}
    for name, info in zip(names, infos, strict=True):
        rest = name.removeprefix(root + slash) if slash else name
        for start, what in _KNOWN:
            if rest.startswith(start) or name.startswith(start):
                raise NotAllowedError(f"{what} ({name})")
        plain = root not in ("", ".", "..") and name.startswith(root + slash)
        if not slash or not plain or not _ALLOWED.fullmatch(rest):
            raise NotAllowedError(f"an entry that is not part of a plain archive ({name!r})")
        found[rest] = info
    return found

"""Read files of named arrays: ``.npz``, ``.safetensors``, ``.pt`` with tensors only."""

from __future__ import annotations

import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from awqc.errors import CalibrationError, UsageError
from awqc.machine.room import available

_KINDS = "an .npz, a .safetensors, or a .pt file with a dict of tensors"


def read_arrays(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of a file; what kind of file it is, its content says.

    No code of the file is run.

    Raises:
        UsageError: there is no such file.
        CalibrationError: the file is of another kind, damaged, or holds no arrays.
    """
    path = Path(path).expanduser()
    if not os.path.isfile(path):
        raise UsageError(f"{path}: there is no such calibration file; give {_KINDS}")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    arrays = _read(path, head)
    if not arrays:
        raise CalibrationError(f"{path}: the file holds no arrays; name one after each input")
    return arrays


def _read(path: Path, head: bytes) -> dict[str, Tensor]:
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                is_npz = any(name.endswith(".npy") for name in archive.namelist())
        except _DAMAGED as error:
            raise CalibrationError(f"{path}: the file is damaged: {error}") from error
        return _read_npz(path) if is_npz or path.suffix.lower() == ".npz" else _read_pt(path)
    if head.startswith(b"\x80"):
        return _read_pt(path)
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith(b"\x93NUMPY"):
        raise CalibrationError(
            f"{path}: is a single array without a name; save it as "
            "np.savez(file, name_of_the_input=array)"
        )
    raise CalibrationError(f"{path}: is no file of arrays, or is damaged; needed is {_KINDS}")


_DAMAGED = (
    ValueError, OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, MemoryError,
    OverflowError, struct.error, SyntaxError, tokenize.TokenError,
)  # fmt: skip
"""What reading a damaged archive raises."""


def _check_members(path: Path) -> None:
    """Refuse an archive that is encrypted, damaged, or larger than the memory that is free.

    Raises:
        CalibrationError: with the member.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.flag_bits & 1:
                raise CalibrationError(
                    f"{path}: {member.filename!r} is encrypted; save the arrays without a password"
                )
        size, free = sum(member.file_size for member in archive.infolist()), available()
        if size > free:
            raise CalibrationError(
                f"{path}: expands to {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
                "give fewer samples"
            )
        if (damaged := archive.testzip()) is not None:
            raise CalibrationError(
                f"{path}: the arrays cannot be read: the checksum of {damaged!r} is wrong: the "
                "file is damaged"
            )


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        _check_members(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: to_tensor(arrays[name], f"{path}: {name!r}") for name in arrays.files}
    except _DAMAGED as error:
        raise CalibrationError(
            f"{path}: the arrays cannot be read: {error}. Needed are plain numeric arrays"
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CalibrationError(f"{path}: the safetensors file is damaged: {error}") from error


def _read_pt(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CalibrationError(
            f"{path}: could not be read as a file of tensors: it is damaged, or holds other "
            "objects. Save a plain dict: torch.save({'name_of_the_input': tensor}, file)"
        ) from error
    if not isinstance(loaded, Mapping):
        raise CalibrationError(
            f"{path}: holds a {type(loaded).__name__}; a dict from input names to tensors is needed"
        )
    return {str(name): to_tensor(value, f"{path}: {name!r}") for name, value in loaded.items()}


def to_tensor(value: Any, where: str) -> Tensor:
    """``value`` as a tensor without gradient.

    Raises:
        CalibrationError: it is no tensor and no numeric array.
    """
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray | np.generic):
        try:
            return torch.from_numpy(np.array(value))
        except TypeError as error:
            raise CalibrationError(
                f"{where} is an array of {value.dtype}, which is no tensor: {error}"
            ) from error
    raise CalibrationError(f"{where} is a {type(value).__name__}; a tensor is needed")

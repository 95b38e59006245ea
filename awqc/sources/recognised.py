"""What a file is, by its content: how it is to be loaded, or why it cannot be."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from awqc.errors import CaptureError, UsageError, spelled

SOURCES = (
    "a torch.export archive (.pt2), a pickled nn.Module (.pt), a Hugging Face folder, "
    "package.module:factory, or path/to/file.py:factory"
)
"""What a model can come from, for messages."""
_MAGIC = (
    (b"\x89HDF", 0, "an HDF5 file (Keras?)"),
    (b"TFL3", 4, "a TensorFlow Lite model"),
    (b"PK\x03\x04", 0, "a zip file that is cut short"),
    (b"\x93NUMPY", 0, "a NumPy array"),
)


def recognise(path: Path) -> str:
    """``"archive"`` or ``"pickle"``: how the file is to be loaded, by its content.

    Raises:
        UsageError: it is something else; the message says what, and what to do.
    """
    if path.stat().st_size == 0:
        raise UsageError(f"{path}: the file is empty; a model is needed: {SOURCES}")
    if zipfile.is_zipfile(path):
        return _recognise_zip(path)
    head = path.read_bytes()[:16] if path.stat().st_size < 1 << 16 else _head(path)
    if head.startswith(b"\x80"):
        return "pickle"
    raise UsageError(f"{path}: {_other_file(path, head)}")


def _recognise_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise CaptureError(f"{path}: the file is damaged: {error}") from error
    members = {name.partition("/")[2] for name in names}
    if "archive_format" in members or "serialized_exported_program.json" in names:
        return "archive"
    if "constants.pkl" in members:
        raise UsageError(
            f"{path}: is a TorchScript archive, which torch.export cannot capture. Give the "
            "nn.Module that it was made from: torch.save(model, 'model.pt'), or "
            "package.module:factory"
        )
    if "data.pkl" in members:
        return "pickle"
    if any(name.endswith(".npy") for name in names):
        raise UsageError(
            f"{path}: is an .npz file of arrays, no model; give it as {spelled('calib')}. MODEL is "
            f"{SOURCES}"
        )
    raise UsageError(f"{path}: is a zip file, but none that torch wrote. MODEL is {SOURCES}")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def _starts_with(path: Path, magic: bytes) -> bool:
    return path.is_file() and _head(path).startswith(magic)


def _other_file(path: Path, head: bytes) -> str:
    """What a file that cannot be loaded is, and what to do."""
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return (
            "is a safetensors file: weights without the model's code. For a Hugging Face model "
            "give its folder; else give the class or function that builds the model, as "
            "package.module:factory or path/to/file.py:factory, and this file with "
            f"{spelled('weights')}"
        )
    if path.suffix.lower() == ".onnx" or (head[:1] == b"\x08" and b"\x12" in head):
        return (
            "is an ONNX file; awqc compiles PyTorch models and writes ONNX. Give the model that "
            f"it was exported from: {SOURCES}"
        )
    if path.suffix.lower() == ".py":
        return f"is Python code; give the function in it that returns the model: {path}:factory"
    for magic, offset, what in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return f"is {what}; MODEL is {SOURCES}"
    return f"is no model that awqc knows, or is damaged; MODEL is {SOURCES}"


def _check_readable(path: Path, text: str) -> None:
    try:
        if path.is_file():
            _head(path)
        elif path.is_dir():
            next(path.iterdir(), None)
    except PermissionError as error:
        raise UsageError(f"{path}: you have no permission to read it") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not path.exists():
        raise UsageError(f"{text}: there is no such file or folder. MODEL is {SOURCES}")
    if not path.is_file() and not path.is_dir():
        raise UsageError(f"{text}: is neither a file nor a folder. MODEL is {SOURCES}")


def is_folder(path: Path, text: str) -> bool:
    """Whether a model that can be read is a folder, or a GGUF file, which stands for one."""
    _check_readable(path, text)
    return path.is_dir() or _starts_with(path, b"GGUF")

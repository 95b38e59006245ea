"""Load a `torch.export` archive (``.pt2``), without running code of the file."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import torch
from torch.export import ExportedProgram

from awqc.capture.pickled import TRUST
from awqc.errors import CaptureError, UsageError
from awqc.machine.process import quiet_libraries

_OBJECTS = ("custom_obj_", "opaque_obj_")
_LIBRARIES = "data/aotinductor/"


def load_archive(path: Path, *, trust: bool) -> ExportedProgram:
    """The program saved in ``path``.

    Raises:
        UsageError: the archive holds pickled objects or compiled code and is not trusted.
        CaptureError: it is corrupt, or of a torch version that cannot be read here.
    """
    if not trust:
        risk = _risk(path)
        if risk:
            raise UsageError(
                f"{path}: the archive holds {risk}, and loading it would run code of the file. "
                f"If you trust where it comes from, pass {TRUST}"
            )
    try:
        with quiet_libraries():
            return torch.export.load(path)
    except Exception as error:
        text = str(error).strip().splitlines()
        raise CaptureError(
            f"{path}: the torch.export archive could not be loaded by torch "
            f"{torch.__version__}: {type(error).__name__}: {text[0] if text else ''}. It is "
            "damaged, or from another version of torch: export the model again with this one"
        ) from error


def _risk(path: Path) -> str | None:
    """What in the archive would run code when loaded, or None."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _risk_inside(archive)
    except (zipfile.BadZipFile, OSError, ValueError, AttributeError) as error:
        raise CaptureError(f"{path}: the archive is damaged: {error}") from error


def _risk_inside(archive: zipfile.ZipFile) -> str | None:
    names = archive.namelist()
    if len(set(names)) != len(names):
        return "two entries of the same name"
    pickles = [name for name in names if name.endswith(".pt")]
    for name in names:
        if _LIBRARIES in name:
            return f"a compiled library ({name})"
        if name.endswith("_config.json"):
            folder = name.rpartition("/")[0]
            for entry in json.loads(archive.read(name)).get("config", {}).values():
                member = str(entry.get("path_name", ""))
                if member.startswith(_OBJECTS):
                    return f"a pickled object ({member})"
                if entry.get("use_pickle"):
                    pickles.append(f"{folder}/{member}")
    for name in pickles:
        if name not in names:
            return f"a pickle that is not there ({name})"
        if not _is_plain(archive.read(name)):
            return f"a pickled object ({name})"
    return None


def _is_plain(content: bytes) -> bool:
    """Whether a pickle holds only tensors and plain containers."""
    if not content:
        return True
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - whatever the reason, it is not known to be safe
        return False
    return True

"""Load a `torch.export` archive (``.pt2``), without running code of the file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch.export import ExportedProgram

from awqc.capture.pickled import TRUST
from awqc.errors import CaptureError, UsageError
from awqc.machine.process import quiet_libraries
from awqc.pt2.failures import DamagedError, NotAllowedError
from awqc.pt2.read import read_program


def load_archive(path: Path, *, trust: bool) -> ExportedProgram:
    """The program saved in ``path``.

    With ``trust`` torch's own loader reads it, which may run code of the file.

    Raises:
        UsageError: the archive holds something that could run code, and is not trusted.
        CaptureError: it is corrupt, or of a torch version that cannot be read here.
    """
    try:
        with quiet_libraries():
            return torch.export.load(path) if trust else read_program(path)
    except NotAllowedError as error:
        raise UsageError(
            f"{path}: the archive holds {error}. torch's own loader might run code of the file "
            f"for it; if you trust where it comes from, pass {TRUST}"
        ) from error
    except (DamagedError, zipfile.BadZipFile) as error:
        raise CaptureError(f"{path}: the archive is damaged: {error}") from error
    except Exception as error:
        text = str(error).strip().splitlines()
        raise CaptureError(
            f"{path}: the torch.export archive could not be loaded by torch "
            f"{torch.__version__}: {type(error).__name__}: {text[0] if text else ''}. It is "
            "damaged, or from another version of torch: export the model again with this one"
        ) from error

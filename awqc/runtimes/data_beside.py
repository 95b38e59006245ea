"""A large ONNX model as onnxruntime opens it in least memory: its weights in a file of their own.

What lies in the model's own file is read whole and copied; what lies beside it is mapped. On
SmolLM2-135M, 90 MB of 4 and 8 bits, opening takes 364 MB in place of 459.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from awqc.artifacts.scratch import ScratchFolder
from awqc.machine.memory import trim

SMALL = 2**24
"""Bytes of a file up to which it is opened as it is."""
LEAST = 2**10
"""Bytes from which on a tensor goes to the file beside."""


def data_beside(model: Path) -> tuple[Path, ScratchFolder | None]:
    """The same model with its weights beside it, and what holds it; itself where it has them there.

    Also itself where it is small, or there is no room for another one.
    """
    if model.stat().st_size <= SMALL or model.with_name(f"{model.name}.data").is_file():
        return model, None
    try:
        held = ScratchFolder()
        found = held.path / model.name
        onnx.save(
            onnx.load(model, load_external_data=False),
            found,
            save_as_external_data=True,
            location=f"{model.name}.data",
            size_threshold=LEAST,
        )
    except (OSError, DecodeError):
        return model, None
    trim()
    return found, held

"""Accuracy levels of onnxruntime's low-bit products: asking for them, writing them into files."""

from __future__ import annotations

from pathlib import Path

import onnx

from awqc.errors import UsageError
from awqc.export.session_file import write_session_file
from awqc.runtimes.session_file import MODEL, TUNED, read_levels, set_levels

FAST = 4
LEVELS = ("0", "1", "2", "3", "4")


def parse_level(level: int | str) -> int | None:
    """A level as a number; None for ``auto``.

    Raises:
        UsageError: it is neither.
    """
    if level == "auto":
        return None
    if str(level) not in LEVELS:
        raise UsageError(
            f"accuracy level {level!r} is unknown; choose auto or one of {', '.join(LEVELS)}"
        )
    return int(level)


def set_level(folder: Path, level: int | None) -> None:
    """Ask for ``level`` in all ONNX models of ``folder``; None: onnxruntime's default, 4."""
    tuned = folder / TUNED / MODEL
    if tuned.is_file() and level not in (None, FAST):
        proto = onnx.load(tuned, load_external_data=False)
        write_levels(tuned, dict.fromkeys(read_levels(proto), level or 0))
    for model in (folder / MODEL, tuned):
        if model.is_file():
            write_session_file(model, level)


def write_levels(path: Path, levels: dict[str, int]) -> None:
    """Write accuracy levels into the model at ``path``; its data stays where it is."""
    proto = onnx.load(path, load_external_data=False)
    set_levels(proto, levels)
    onnx.save(proto, path)

"""Say why a model could not be captured: the line of its own code, and the way out."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

import torch

from awqc.errors import CaptureError, spelled

_LIBRARIES = tuple(
    str(Path(path).resolve())
    for path in (
        Path(torch.__file__).parent,
        Path(__file__).parents[1],
        sysconfig.get_paths()["stdlib"],
    )
)
_SITE_PACKAGES = ("site-packages", "dist-packages")

_ADVICE = (
    (
        "data-dependent",
        "the path through forward depends on the values of a tensor, and a graph has one "
        "path only. Use torch.where (or torch.cond) in place of Python's if, or a fixed size; "
        "or compile the submodules that can be captured, with "
        f"{spelled('partial', True, python='awqc.compile_partial')}",
    ),
    (
        "unhashable type: non-nested Sym",
        "a number that follows from sizes or values of tensors is put in a set, or is the key of a "
        "dict; in a graph it is no number yet. Compare such numbers with torch's operations, or "
        "compile the submodules that can be captured, with "
        f"{spelled('partial', True, python='awqc.compile_partial')}",
    ),
    (
        "not a known type",
        "forward takes or returns an object that torch.export does not know. Use tensors in "
        "tuples, lists and dicts, or register the type with "
        "torch.export.register_dataclass",
    ),
)


def explain_failure(model: str, error: Exception) -> CaptureError:
    """The error to raise when ``torch.export`` refused ``model`` with ``error``."""
    text = str(error).strip()
    reason = text.splitlines()[0] if text else "no message"
    line = model_line(error)
    advice = next((advice for key, advice in _ADVICE if key in text), None)
    parts = [
        f"{model} could not be captured by torch.export: {type(error).__name__}: {reason}",
        f"  at {line}" if line else "",
        f"What to do: {advice}" if advice else "",
    ]
    return CaptureError("\n".join(part for part in parts if part))


def model_line(error: BaseException) -> str | None:
    """The innermost line of the model's own code in the error's traceback, if there is one.

    ``net.py:12 in forward: if x.sum() > 0:``; torch, awqc and the standard library are no
    model code.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_model_code(frame.filename)]
    inside = [frame for frame in own if frame.name not in ("<module>",)]
    if not inside:
        return None
    frame = inside[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    return f"{where}: {frame.line}" if frame.line else where


def _is_model_code(filename: str) -> bool:
    if filename.startswith("<"):
        return False
    path = str(Path(filename).resolve())
    if any(part in _SITE_PACKAGES for part in Path(path).parts):
        return not path.startswith(_LIBRARIES[0])
    return not path.startswith(_LIBRARIES)

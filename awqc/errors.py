"""The errors that awqc raises on purpose, and how a message names an option.

Every message says where (node, module path or file), what was found, what is
needed, and what to do. The command line prints the message alone and exits with
the error's ``exit_code``; a traceback therefore always means a bug in awqc.

An option has two names: ``max_loss`` for who calls from Python, ``--max-loss`` on the command
line. A message does not know who will read it, so it holds a mark (`spelled`) in its place. Text
with marks is an error's ``text`` and what notes are made of; `worded` puts names in, and the
boundary chooses them: ``str(error)`` is Python's, `awqc.cli` gives its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but tab and newline
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # directions of writing
    "\u2028\u2029"  # other ends of lines
    "\ud800-\udfff]"  # bytes of file names that are no text
)


def printable(text: str) -> str:
    r"""``text`` with what would steer a terminal shown as ``\u001b``.

    >>> print(printable("a\x1b[31m\u202eb"))
    a\u001b[31m\u202eb
    """
    return _STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


Speller = Callable[[str, Any], str]
"""Words an option and its value, None where it is named without one."""

_MARK = re.compile("\ue000(.*?)\ue001", re.DOTALL)
"""A JSON list between two characters that no text uses (they are for private use)."""


def spelled(name: str, value: Any = None, *, python: str | None = None) -> str:
    """The mark for option ``name``, set to ``value``, in a message that is not yet worded.

    ``python`` says in Python's words what the command line has the option for.

    >>> text = f"leave layers out with {spelled('exclude')}, or give {spelled('dtype', 'float32')}"
    >>> worded(text)
    "leave layers out with exclude, or give dtype='float32'"
    """
    return f"\ue000{json.dumps([name, value, python])}\ue001"


def in_python(name: str, value: Any) -> str:
    """An option as a keyword argument."""
    return name if value is None else f"{name}={value!r}"


def worded(text: str, speller: Speller = in_python) -> str:
    """``text`` with its marks replaced by names of options: Python's, unless told otherwise."""

    def word(match: re.Match[str]) -> str:
        try:
            name, value, python = json.loads(match[1])
        except ValueError:  # No mark of ours: a quoted name holds these characters.
            return match[0]
        return python if python and speller is in_python else speller(name, value)

    return _MARK.sub(word, text)


BY_A_RUN = (
    "In Python, awqc.compile(model, run=lambda model: [model.generate(…), …], "
    "part={'NAME': 'path.of.a.module'}) compiles the modules that you name, of whatever runs them"
)
"""What to do with a model whose way of generating has no files that runners know."""


@dataclass(frozen=True)
class Note:
    """What a caller should know, though nothing failed; ``str`` of it is worded for Python."""

    text: str
    warning: bool = False

    def __str__(self) -> str:
        return worded(self.text)


class AwqcError(Exception):
    """Base of all errors that awqc raises on purpose."""

    exit_code = 1

    @property
    def text(self) -> str:
        """The message with marks for options: what another message may quote."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        """The message in Python's words, fit for a terminal: it may quote names of files."""
        return printable(worded(self.text))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class UsageError(AwqcError):
    """An option, argument or input of the caller's is wrong."""

    exit_code = 2


class CaptureError(AwqcError):
    """The model could not be loaded or turned into a graph."""


class UnsupportedGraphError(AwqcError):
    """The captured graph holds something that a pass cannot treat correctly."""


class CalibrationError(AwqcError):
    """The calibration data or the activations that it causes are unusable."""


class InvariantError(AwqcError):
    """A pass broke a promise that the pipeline checks after each pass."""


class RankError(AwqcError):
    """Another process of the same compile failed, or is gone."""


class ExportError(AwqcError):
    """An artifact, or what is kept on disk for a while, could not be written."""


class VerificationError(AwqcError):
    """The exported model is not the model that was asked for."""

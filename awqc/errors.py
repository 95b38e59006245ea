"""The errors that awqc raises on purpose.

Every message says where (node, module path or file), what was found, what is
needed, and what to do. The command line prints the message alone and exits with
the error's ``exit_code``; a traceback therefore always means a bug in awqc.
"""

import re

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


class AwqcError(Exception):
    """Base of all errors that awqc raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        """The message, fit for a terminal: it may quote names out of files."""
        return printable(super().__str__())


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


class ExportError(AwqcError):
    """An artifact could not be written."""


class VerificationError(AwqcError):
    """The exported model is not the model that was asked for."""

"""Text that may hold names out of files, made fit to be shown."""

from __future__ import annotations

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

"""Which names of weights and submodules are names, where they come from a file.

torch writes them into Python source that it then runs (`torch.fx.GraphModule`, guards of
`torch.export`), unescaped: a name is whatever cannot be more than one there.
"""

from __future__ import annotations

import keyword
import unicodedata

LONGEST = 80
"""Characters of a name that a message shows."""


def why_no_name(name: object) -> str | None:
    """Why ``name``, one part of a dotted path, cannot be taken from a file; None if it can.

    Names are identifiers, in the form in which Python reads them, and decimal numbers.

    >>> why_no_name("q_proj"), why_no_name("0"), why_no_name("größe")
    (None, None, None)
    >>> why_no_name("a;b")
    'is neither an identifier nor a number'
    """
    if not isinstance(name, str):
        return f"is a {type(name).__name__}; a string is needed"
    if name.isascii() and name.isdecimal():
        return None
    if not name.isidentifier():
        return "is neither an identifier nor a number"
    if unicodedata.normalize("NFKC", name) != name:
        return "is read by Python as another name"
    if keyword.iskeyword(name):
        return "is a word of Python's own"
    if name.startswith("__"):
        return "begins with two underscores, which is for Python's own names"
    return None


def quoted(name: object) -> str:
    """``name`` for a message: escaped, and cut where it is long."""
    text = repr(name)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"

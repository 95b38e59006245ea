"""Which text of an archive may become part of a program that torch generates.

torch writes names into Python source and runs it; so a name is an identifier, and text that
stands between quotes there has none of its own.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable

from awqc.pt2.failures import NotAllowedError

Rule = Callable[[str], bool]

_TAKEN = frozenset({"torch", "self", "device", "inf", "nan", "NoneType", "pytree", "fx_pytree"})
_PATH = re.compile(r"[\w/:@+ -]+(?:\.[\w/:@+ -]+)*")
_SYMBOL = re.compile(r"[A-Za-z_]{1,32}[0-9]{0,6}")
_QUOTES = frozenset("'\"\\`")


def is_name(text: str) -> bool:
    """Whether this can name a value of a graph."""
    return text.isidentifier() and not keyword.iskeyword(text) and not _reserved(text)


def is_path(text: str) -> bool:
    """Whether this can name a parameter, buffer or module: ``layers.0.weight``."""
    return bool(_PATH.fullmatch(text)) and not any(map(_is_dunder, text.split(".")))


def is_symbol(text: str) -> bool:
    """Whether this can name the symbol of a size: ``s0``."""
    return bool(_SYMBOL.fullmatch(text)) and not _is_dunder(text)


def is_words(text: str) -> bool:
    """Whether this can stand between quotes: printable, without quotes or backslashes."""
    return text.isprintable() and not _QUOTES & set(text)


def is_message(text: str) -> bool:
    """Whether this can be an operator's argument, which is written as Python writes a str."""
    return all(char.isprintable() or char in "\n\t" for char in text)


def check_text(text: str, rule: Rule, where: str) -> str:
    """``text`` if ``rule`` allows it.

    Raises:
        NotAllowedError: it does not.
    """
    if not rule(text):
        raise NotAllowedError(f"the text {text[:60]!r} as {where}")
    return text


def _reserved(text: str) -> bool:
    return text in _TAKEN or _is_dunder(text)


def _is_dunder(text: str) -> bool:
    return text.startswith("__") and text.endswith("__")

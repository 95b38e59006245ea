"""JSON files of others, read with the types that are expected, or a message with the place.

No reader of awqc indexes what came out of a parser: it asks an `Object` for a key and the kinds
that its value may be of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awqc.errors import UsageError

LARGEST = 2**28
"""Bytes of a JSON file that is read."""

_NEEDED: dict[Any, str] = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false",
    dict: "an object", list: "a list", type(None): "null",
}  # fmt: skip
REQUIRED = object()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    content = _parsed(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path}: holds a JSON {type(content).__name__}; an object is needed")
    return content


def read_objects(path: Path) -> list[dict[str, Any]]:
    """The list of objects in a JSON file.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    content = _parsed(path)
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        raise UsageError(f"{path}: holds no list of JSON objects, which is needed")
    return content


def _parsed(path: Path) -> Any:
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: is no file, but a folder, a device or a pipe")
        if path.stat().st_size > LARGEST:
            raise UsageError(f"{path}: is larger than {LARGEST} bytes; no JSON of a model is")
        return _parsed_text(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise UsageError(
            f"{path.parent}: {path.name} is missing; a complete folder as "
            "`save_pretrained` writes it is needed"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not readable as JSON: {error}") from error


def _parsed_text(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UsageError(f"{where}: not readable as JSON: it is nested too deeply") from error
    except ValueError as error:
        raise UsageError(f"{where}: not readable as JSON: {error}") from error


@dataclass(frozen=True)
class Object:
    """A JSON object that tells what is wrong in it.

    Attributes:
        content: what was parsed.
        where: the file, and the place in it.
    """

    content: Mapping[str, Any]
    where: str

    @classmethod
    def of(cls, path: Path) -> Object:
        """The object in a JSON file; see `read_json`."""
        return cls(read_json(path), str(path))

    @classmethod
    def of_text(cls, text: str, where: str) -> Object:
        """The object that ``text`` is.

        Raises:
            UsageError: it is none.
        """
        content = _parsed_text(text, where)
        if not isinstance(content, dict):
            raise UsageError(f"{where}: holds a {type(content).__name__}; an object is needed")
        return cls(content, where)

    def get(self, key: str, kind: Any, default: Any = REQUIRED) -> Any:
        """The value of ``key``, which is of the type or one of the types ``kind``.

        A whole number does for a number; true and false do for no number.

        Raises:
            UsageError: it is missing and has no default, or is of another type.
        """
        if key not in self.content and default is not REQUIRED:
            return default
        if key not in self.content:
            raise UsageError(f"{self.where}: has no {key!r}")
        kinds = kind if isinstance(kind, tuple) else (kind,)
        self._check(self.content[key], kinds, repr(key))
        return self.content[key]

    def inside(self, key: str) -> Object:
        """The object that is the value of ``key``."""
        return Object(self.get(key, dict), f"{self.where}, {key}")

    def values(self, kind: Any) -> dict[str, Any]:
        """All of it, where every value is of the type ``kind``."""
        for key in self.content:
            self.get(key, kind)
        return dict(self.content)

    def items(self, key: str, kind: Any) -> list[Any]:
        """The list that is the value of ``key``, where every item is of the type ``kind``."""
        found: list[Any] = self.get(key, list)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        for place, item in enumerate(found):
            self._check(item, kinds, f"{key}[{place}]")
        return found

    def optional(self, key: str, kind: Any) -> Any:
        """The value of ``key``; None where it is missing or null."""
        kinds = kind if isinstance(kind, tuple) else (kind,)
        return self.get(key, (*kinds, type(None)), None)

    def listed(self, key: str, kind: Any) -> list[Any]:
        """The values of ``key``, which may be one, a list, or nothing."""
        found = self.optional(key, (list, kind))
        if isinstance(found, list):
            return self.items(key, kind)
        return [] if found is None else [found]

    def _check(self, value: Any, kinds: tuple[Any, ...], name: str) -> None:
        allowed = (*kinds, int) if float in kinds else kinds
        if (isinstance(value, bool) and bool not in kinds) or not isinstance(value, allowed):
            needed = " or ".join(_NEEDED[kind] for kind in kinds)
            raise UsageError(
                f"{self.where}: {name} is a {type(value).__name__}; {needed} is needed"
            )

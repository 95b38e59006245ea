"""Build torch's own records of a program from JSON, each field by its declared type.

Numbers are numbers and lists are lists; text is let in only where `awqc.pt2.rules` tells
what it may be. Fields that torch does not declare are left behind.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from enum import IntEnum
from functools import cache
from typing import Any, TypeVar

from torch._export.serde import schema
from torch._export.serde.union import _Union

from awqc.pt2.failures import DamagedError, NotAllowedError
from awqc.pt2.rules import KEYS, REPLACED, TEXTS, check_record, unruled

Record = TypeVar("Record")
_NOT_FINITE = ("Infinity", "-Infinity", "NaN")


def read_record(kind: type[Record], content: bytes, where: str) -> Record:
    """The record of type ``kind`` that the JSON ``content`` of the member ``where`` holds.

    Raises:
        NotAllowedError: it holds text that no rule allows.
        DamagedError: it is no such record.
    """
    try:
        record: Record = _build(kind, json.loads(content.decode("utf-8")), where)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{where} cannot be read: {error}") from error
    return record


def _build(kind: Any, data: Any, place: str) -> Any:
    """``data`` as a value of the type ``kind``; ``place`` is the record's field that holds it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if data is None else _build(arguments[0], data, place)
    if origin is list:
        return [_build(arguments[0], item, place) for item in _of(list, data, place)]
    if origin is dict:
        return {
            _text(KEYS, key, place): _build(arguments[1], item, place)
            for key, item in _of(dict, data, place).items()
        }
    if dataclasses.is_dataclass(kind):
        return _record(kind, _of(dict, data, place), place)
    if kind is str:
        return _text(TEXTS, data, place)
    return _number(kind, data, place)


def _record(kind: Any, data: dict[str, Any], place: str) -> Any:
    fields = _fields(kind)
    if issubclass(kind, _Union):
        tag = next(iter(data), None)
        if len(data) != 1 or tag not in fields:
            raise DamagedError(f"{place} holds {str(list(data))[:80]}, one of {kind.__name__}")
        record = kind.create(**{tag: _field(kind, tag, data[tag])})
    else:
        values = {name: _field(kind, name, data[name]) for name in fields if name in data}
        missing = [
            field.name
            for field in dataclasses.fields(kind)
            if field.name not in values
            and field.default is field.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise DamagedError(f"{place} has no {missing[0]}")
        record = kind(**values)
    check_record(record)
    return record


def _field(kind: Any, name: str, data: Any) -> Any:
    place = f"{kind.__name__}.{name}"
    if place in REPLACED:
        data = REPLACED[place](data)
    return _build(_fields(kind)[name], data, place)


@cache
def _fields(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, globalns=vars(schema))


def _text(rules: Any, data: Any, place: str) -> Any:
    if place not in rules:
        raise unruled(place)
    return rules[place](_of(str, data, place))


def _number(kind: Any, data: Any, place: str) -> Any:
    if kind is float:
        if type(data) in (int, float) or (type(data) is str and data in _NOT_FINITE):
            return float(data)
    elif isinstance(kind, type) and issubclass(kind, IntEnum):
        return kind(_of(int, data, place))
    elif kind in (int, bool):
        return _of(kind, data, place)
    raise NotAllowedError(f"{str(data)[:60]!r} as {place}")


def _of(kind: type, data: Any, place: str) -> Any:
    if type(data) is not kind:
        raise DamagedError(f"{place} is a {type(data).__name__}, {kind.__name__} is needed")
    return data

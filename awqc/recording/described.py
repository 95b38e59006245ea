"""The form of a result as plain JSON, and results of that form: nests and objects around tensors.

Numbers, texts, flags and None stand for themselves; anything else is an object of one key that says
what it is. A class is named by its module and its name, and is one of a package that is allowed.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from awqc.errors import CaptureError, UsageError

TENSOR, LIST, TUPLE, DICT, DTYPE, DEVICE, CLASS = (
    "tensor", "list", "tuple", "dict", "dtype", "device", "class",
)  # fmt: skip
ITEMS, ATTRIBUTES = "items", "attributes"
_PLAIN = (bool, int, float, str, type(None))


def described(value: Any, path: str = "") -> Any:
    """What `of_form` makes ``value`` of again; tensors by their path in it.

    Raises:
        CaptureError: something in it has no such words.
    """
    if isinstance(value, Tensor):
        return {TENSOR: path}
    if type(value) in _PLAIN:
        return value
    if isinstance(value, torch.dtype):
        return {DTYPE: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {DEVICE: str(value)}
    if isinstance(value, type):
        return {CLASS: _name(value)}
    inside = f"{path}." if path else ""
    if type(value) in (list, tuple):
        kind = LIST if isinstance(value, list) else TUPLE
        return {kind: [described(one, f"{inside}{place}") for place, one in enumerate(value)]}
    if isinstance(value, Mapping):
        items = _pairs(value, inside)
        return {DICT: items} if type(value) is dict else {CLASS: _name(type(value)), ITEMS: items}
    if hasattr(value, "__dict__") and not isinstance(value, nn.Module) and not callable(value):
        return {CLASS: _name(type(value)), ATTRIBUTES: _pairs(vars(value), inside)}
    raise CaptureError(f"{path or 'a result'} is a {type(value).__name__}, which has no words")


def of_form(form: Any, tensors: Mapping[str, Tensor], packages: Collection[str]) -> Any:
    """A result of the ``form`` that `described` gave, with ``tensors`` by their paths.

    Raises:
        UsageError: it is no such form, or names a class outside of ``packages``.
    """
    if not isinstance(form, dict):
        return form
    try:
        return _of_object(form, tensors, packages)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"the form {str(form)[:80]} of a result is damaged: {error}") from error


def _of_object(
    form: dict[str, Any], tensors: Mapping[str, Tensor], allowed: Collection[str]
) -> Any:
    def made(inner: Any) -> Any:
        return of_form(inner, tensors, allowed)

    kind, content = next(iter(form.items()))
    if kind == TENSOR:
        return tensors[content]
    if kind == LIST:
        return [made(each) for each in content]
    if kind == TUPLE:
        return tuple(made(each) for each in content)
    if kind == DICT:
        return {key: made(each) for key, each in content}
    if kind == DTYPE:
        found = getattr(torch, content)
        if not isinstance(found, torch.dtype):
            raise ValueError(f"{content} is no dtype")
        return found
    if kind == DEVICE:
        return torch.device(content)
    known = _class(form[CLASS], allowed)
    if ITEMS in form:
        if not issubclass(known, Mapping):  # whose making might do anything
            raise ValueError(f"{form[CLASS]} is no mapping")
        return known(**{key: made(each) for key, each in form[ITEMS]})
    if ATTRIBUTES not in form:
        return known
    built = known.__new__(known)
    vars(built).update({key: made(each) for key, each in form[ATTRIBUTES]})
    return built


def _pairs(values: Mapping[Any, Any], inside: str) -> list[list[Any]]:
    pairs = []
    for key, value in values.items():
        if not isinstance(key, str | int):
            raise CaptureError(f"{inside}{key} is named by a {type(key).__name__}")
        pairs.append([key, described(value, f"{inside}{key}")])
    return pairs


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _class(name: str, allowed: Collection[str]) -> Any:
    """The class of that name, which is no module with weights and stands in a package ``allowed``.

    Raises:
        ValueError: it is something else.
    """
    module, _, own = name.partition(":")
    if module.partition(".")[0] not in allowed:
        raise ValueError(f"{name} is in none of {', '.join(allowed)}")
    found = getattr(importlib.import_module(module), own)
    if not isinstance(found, type) or issubclass(found, nn.Module) or found.__module__ != module:
        raise ValueError(f"{name} is no class of results")
    return found

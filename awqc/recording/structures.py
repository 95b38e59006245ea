"""Tensors inside of what modules take and give: nests, dataclasses, and objects such as caches."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Leaves = dict[str, Tensor]
"""Tensors by path: ``encoder_outputs.last_hidden_state``, ``cache.layers.0.keys``."""

_WHOLE = (
    nn.Module, type, types.FunctionType, types.MethodType, types.BuiltinFunctionType,
    types.ModuleType, torch.Generator, torch.dtype, torch.device, torch.Size, str, bytes,
)  # fmt: skip
"""What is taken as it is: nothing of a call lies inside of it."""


def leaves(value: Any) -> Leaves:
    """The tensors in ``value`` by path: items of nests, attributes of objects."""
    return dict(_walk(value, "", set()))


def _walk(value: Any, path: str, above: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
        return
    if id(value) in above:
        return
    for key, child in _children(value):
        yield from _walk(child, f"{path}.{key}" if path else str(key), above | {id(value)})


def constants(value: Any) -> dict[str, Any]:
    """Numbers, flags and texts in ``value`` by path."""
    return dict(_plain(value, "", set()))


def _plain(value: Any, path: str, above: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, bool | int | float | str):
        yield path, value
    elif not isinstance(value, Tensor) and id(value) not in above:
        for key, child in _children(value):
            yield from _plain(child, f"{path}.{key}" if path else str(key), above | {id(value)})


def rebuilt(value: Any, given: Mapping[str, Tensor], path: str = "") -> Any:
    """``value`` built anew, with the tensors in ``given`` in place of its own at these paths.

    No nest and no object is shared with ``value``, so that a call that writes into its arguments,
    as one that extends a cache does, leaves ``value`` as it is. Tensors are shared.
    """
    if isinstance(value, Tensor):
        return given.get(path, value)
    prefix = f"{path}." if path else ""
    children = {key: rebuilt(child, given, f"{prefix}{key}") for key, child in _children(value)}
    if isinstance(value, Mapping):
        same = copy.copy(value)
        for key, child in children.items():
            same[key] = child  # type: ignore[index]  # what calls take can be set
        return same
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*children.values())
    if isinstance(value, list | tuple):
        return type(value)(children.values())
    if not children:
        return value
    same = copy.copy(value)
    vars(same).update(children)
    return same


def _children(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, _WHOLE):
        return []
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    return list(vars(value).items()) if hasattr(value, "__dict__") else []

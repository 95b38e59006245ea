"""What a module that was unpickled without trust may hold: what torch.nn's own layers hold.

A pickle sets any attribute of a layer, so a file of stock layers could still replace a method,
call a function in a hook, or give a weight a name that is Python source. What is let in:

    submodules, weights, buffers    under names (`names.why_no_name`) that the class leaves free
    attributes                      numbers, words, sizes, dtypes, tensors, containers of these,
                                    under such names too
    ``activation``                  one of the functions that stock layers are made with
    hooks                           none
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from awqc.capture.identifiers import quoted, why_no_name
from awqc.errors import UsageError

DEEPEST = 100
"""How deep modules and containers may lie in each other."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size,
          torch.layout, torch.memory_format)  # fmt: skip
_DICTS, _LISTS = (dict, OrderedDict), (list, tuple, set, frozenset)
_TENSORS = (Tensor, nn.Parameter)
_MEMBERS = ("_modules", "_parameters", "_buffers")
_OWN = frozenset(vars(nn.Module()))
_HOOKS = frozenset(name for name in _OWN if name.endswith("_hooks") or "_hooks_" in name)


def check_stock(module: nn.Module, path: Path, functions: Collection[Callable[..., Any]]) -> None:
    """Refuse a module that holds more than stock layers do.

    Args:
        module: what was unpickled; none of its code has run.
        path: the file, for messages.
        functions: what ``activation`` may be.

    Raises:
        UsageError: with the place, what is there, and what to do.
    """
    for where, reason in _Inspection(tuple(functions)).module(module, "", 0):
        raise UsageError(
            f"{path}: {where} {reason}. No layer of torch.nn is like that, and code of the file "
            "could run through it: it is not loaded. If you made the file, rename or remove "
            "this and save it again"
        )


@dataclass
class _Inspection:
    """Walks all that hangs on a module; what it yields are pairs (place, what is wrong there).

    The first one ends the walk: what comes after may count on what was checked before.

    Attributes:
        functions: what ``activation`` may be.
        above: ids of the modules and containers that the present place lies in.
        done: ids of those that were looked at; each is looked at once.
    """

    functions: tuple[Callable[..., Any], ...]
    above: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)

    def _enter(self, value: Any, depth: int) -> str | None:
        """Go into a module or container; why that cannot be, or None."""
        if id(value) in self.above:
            return "lies in itself"
        self.above.add(id(value))
        return "lies too deep" if depth > DEEPEST else None

    def _leave(self, value: Any) -> None:
        self.above.discard(id(value))
        self.done.add(id(value))

    def module(self, module: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
        """What is wrong in ``module``, which lies at ``path``."""
        where = f"the module {quoted(path)}" if path else "the model"
        if not isinstance(module, nn.Module):
            yield where, f"is a {type(module).__name__}"
        if id(module) in self.done:
            return
        if reason := self._enter(module, depth):
            yield where, reason
        yield from self._members(module, where)
        held = vars(module)
        for name, value in held.items():
            if name not in _MEMBERS:
                yield from self._attribute(module, name, value, where)
        for name, child in held["_modules"].items():
            if child is not None:
                yield from self.module(child, f"{path}.{name}".lstrip("."), depth + 1)
        self._leave(module)

    def _members(self, module: nn.Module, where: str) -> Iterator[tuple[str, str]]:
        """What is wrong with the names and kinds of submodules, weights and buffers."""
        held = vars(module)
        seen = set(held)
        for what in _MEMBERS:
            members: Any = held.get(what)
            if type(members) not in _DICTS:
                yield where, f"has {what} of the type {type(members).__name__}"
                return
            for name, value in members.items():
                reason = why_no_name(name) or _taken(module, name)
                if reason or name in seen:
                    yield f"{where} has the name {quoted(name)}, which", reason or "it uses twice"
                seen.add(name)
                if what != "_modules" and value is not None:
                    yield from self._tensor(value, f"{where}: {quoted(name)}")

    def _attribute(
        self, module: nn.Module, name: str, value: Any, where: str
    ) -> Iterator[tuple[str, str]]:
        """What is wrong with an attribute outside of the three dicts."""
        reason = why_no_name(name) or (None if name in _OWN else _taken(module, name))
        place = f"{where}: the attribute {quoted(name)}"
        if reason:
            yield place, reason
        elif name in _HOOKS:
            if type(value) not in _DICTS or value:
                yield place, "is a hook"
        elif name == "_flat_weight_refs":
            if not all(type(ref) is weakref.ref for ref in value):
                yield place, "holds other than references"
        elif name == "activation" and any(value is one for one in self.functions):
            return
        else:
            yield from self._value(value, place, 0)

    def _value(self, value: Any, place: str, depth: int) -> Iterator[tuple[str, str]]:
        """What is wrong with plain data."""
        kind = type(value)
        if kind in _PLAIN:
            return
        if isinstance(value, Tensor):
            yield from self._tensor(value, place)
        elif kind not in _DICTS and kind not in _LISTS:
            yield place, f"is or holds a {kind.__module__}.{kind.__qualname__}"
        elif id(value) not in self.done:
            if reason := self._enter(value, depth):
                yield place, reason
            for part in [*value, *value.values()] if kind in _DICTS else list(value):
                yield from self._value(part, place, depth + 1)
            self._leave(value)

    def _tensor(self, value: Any, place: str) -> Iterator[tuple[str, str]]:
        """What is wrong with a tensor: its class, its hooks, what is attached to it."""
        if type(value) not in _TENSORS:
            yield place, f"is a {type(value).__name__}; a tensor is needed"
        if value._backward_hooks:
            yield place, "has a hook"
        for name, attached in vars(value).items():
            if why_no_name(name) or hasattr(Tensor, name):
                yield place, f"has the attribute {quoted(name)}"
            yield from self._value(attached, place, 0)


def _taken(module: nn.Module, name: str) -> str | None:
    """Why ``name`` is not free for what a module holds: it hides something of its class."""
    known = any(name in vars(kind) for kind in type(module).__mro__)
    return f"hides {type(module).__name__}.{name}" if known else None

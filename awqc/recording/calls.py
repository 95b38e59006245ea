"""The calls that reach a module when a model runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from awqc.calling import path_name
from awqc.errors import CaptureError

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


@dataclass(frozen=True)
class SeenCall:
    """One call of a module: its arguments by the names of forward's parameters."""

    arguments: dict[str, Any]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors among the arguments, by name; nested ones by their path."""
        flat = pytree.tree_flatten_with_path(self.arguments)[0]
        return {path_name(path): leaf for path, leaf in flat if isinstance(leaf, Tensor)}

    @property
    def form(self) -> dict[str, Any]:
        """What a compiled block fixes: the nesting, and every argument that is no tensor."""
        leaves = pytree.tree_flatten_with_path(self.arguments)[0]
        return {
            path_name(path): Tensor if isinstance(leaf, Tensor) else leaf for path, leaf in leaves
        }


def run_call(model: nn.Module, call: Call) -> Any:
    """The result of ``call``, without gradients."""
    with torch.no_grad():
        return model(*call[0], **call[1])


def record_calls(
    model: nn.Module, child: nn.Module, calls: Sequence[Call], limit: int
) -> list[SeenCall]:
    """At most ``limit`` calls of ``child`` while ``model`` runs ``calls``.

    Raises:
        CaptureError: it is never called, or in several forms.
    """
    seen: list[SeenCall] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(seen) < limit:
            arguments = bind(child, args, kwargs)
            seen.append(SeenCall(pytree.tree_map_only(Tensor, torch.clone, arguments)))

    hook = child.register_forward_pre_hook(note, with_kwargs=True)
    try:
        for call in calls:
            run_call(model, call)
    finally:
        hook.remove()
    name = type(child).__name__
    if not seen:
        raise CaptureError(f"{name}: forward is not called on the data given")
    if any(call.form != seen[0].form for call in seen):
        raise CaptureError(f"{name}: forward is called in several forms")
    return seen


def bind(
    called: nn.Module | Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Arguments by the names of parameters: of a module's forward, or of a method.

    Raises:
        CaptureError: it takes any number of positional arguments.
    """
    function = called.forward if isinstance(called, nn.Module) else called
    signature = _signature(function)
    bound = signature.bind(*args, **kwargs).arguments
    named: dict[str, Any] = {}
    for key, value in bound.items():
        kind = signature.parameters[key].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            owner = called if isinstance(called, nn.Module) else getattr(called, "__self__", called)
            raise CaptureError(
                f"{type(owner).__name__}: {function.__name__} takes *{key}, which has no names"
            )
        named |= value if kind is inspect.Parameter.VAR_KEYWORD else {key: value}
    return named


def bind_given(
    called: nn.Module | Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """As `bind`, without each None that counts as not given."""
    function = called.forward if isinstance(called, nn.Module) else called
    needed = {
        name for name, each in _signature(function).parameters.items() if each.default is each.empty
    }
    named = bind(called, args, kwargs)
    return {name: v for name, v in named.items() if v is not None or name in needed}


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """That of ``function``; of what it stands before, where it is a wrapper that does not say so.

    Such a wrapper takes anything, and has in its closure a function of its class's name for it.
    """
    signature = inspect.signature(function)
    if all(
        each.kind is not inspect.Parameter.VAR_POSITIONAL for each in signature.parameters.values()
    ):
        return signature
    owner = getattr(function, "__self__", None)
    for cell in getattr(function, "__closure__", None) or ():
        inner = cell.cell_contents
        known = getattr(type(owner), getattr(inner, "__name__", ""), None)
        if inspect.isfunction(inner) and known is getattr(function, "__func__", None):
            return inspect.signature(inner.__get__(owner))
    return signature

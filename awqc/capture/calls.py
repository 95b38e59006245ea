"""The calls that reach a submodule when its model runs, and a block that answers them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from awqc.calling import path_name
from awqc.errors import CaptureError, UsageError

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


@dataclass(frozen=True)
class SeenCall:
    """One call of a submodule: its arguments by the names of forward's parameters."""

    arguments: dict[str, Any]

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


def bind(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of forward's parameters.

    Raises:
        CaptureError: forward takes any number of positional arguments.
    """
    signature = inspect.signature(module.forward)
    bound = signature.bind(*args, **kwargs).arguments
    named: dict[str, Any] = {}
    for key, value in bound.items():
        kind = signature.parameters[key].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            raise CaptureError(f"{type(module).__name__}: forward takes *{key}, which has no names")
        named |= value if kind is inspect.Parameter.VAR_KEYWORD else {key: value}
    return named


def varying_axes(calls: Sequence[SeenCall]) -> dict[str, list[int]]:
    """For each tensor argument the axes whose sizes differ between calls."""
    axes: dict[str, list[int]] = {}
    for (path, first), *others in zip(*(_tensors(call) for call in calls), strict=True):
        differing = [
            axis
            for axis, size in enumerate(first.shape)
            if any(other.shape[axis] != size for _, other in others)
        ]
        if differing:
            axes[path_name(path)] = differing
    return axes


def _tensors(call: SeenCall) -> list[tuple[Any, Tensor]]:
    flat = pytree.tree_flatten_with_path(call.arguments)[0]
    return [(path, leaf) for path, leaf in flat if isinstance(leaf, Tensor)]


class CompiledBlock(nn.Module):
    """Stands in a model where ``original`` stood, and is called as that was."""

    def __init__(self, graph_module: nn.Module, original: nn.Module, call: SeenCall) -> None:
        super().__init__()
        self.graph_module = graph_module
        self._signature = inspect.signature(original.forward)
        self._name = type(original).__name__
        self._form = call.form

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The compiled submodule's result.

        Raises:
            UsageError: an argument that is no tensor has another value than when compiled.
        """
        call = SeenCall(dict(self._signature.bind(*args, **kwargs).arguments))
        if call.form != self._form:
            raise UsageError(
                f"{self._name} was compiled for {_constants(self._form)}; it is called with "
                f"{_constants(call.form)}"
            )
        return self.graph_module(**call.arguments)


def _constants(form: dict[str, Any]) -> str:
    return ", ".join(f"{name}={'a tensor' if v is Tensor else repr(v)}" for name, v in form.items())

"""The calls of modules from outside of all modules, while an entry point runs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from awqc.errors import CaptureError
from awqc.recording.calls import bind
from awqc.recording.structures import Leaves, leaves, rebuilt


@dataclass(frozen=True)
class OutsideCall:
    """A call of a module by code that is no module's forward.

    What was an argument and what came of it are told apart by the tensors themselves: the same
    tensor in two places is a value that flowed from one to the other.

    Attributes:
        path: of the module; "" is the model itself.
        arguments: by the names of forward's parameters, as they were before the call.
        before: the tensors in ``arguments``.
        after: the tensors in the same arguments after the call, which may have written into them.
        result: the tensors in ``answer``.
        answer: the result.
    """

    path: str
    arguments: dict[str, Any]
    before: Leaves
    after: Leaves
    result: Leaves
    answer: Any


def record_outermost(
    model: nn.Module, run: Callable[[], object], among: Collection[str] | None = None
) -> list[OutsideCall]:
    """The calls of ``model`` and its submodules from outside, in order, while ``run`` runs.

    A module that another one calls is a piece of that one and is not listed. ``among`` are the
    paths of the modules that are looked at; None: all.

    Raises:
        CaptureError: a call writes into a tensor that it was given.
    """
    looked_at = {
        path: module for path, module in model.named_modules() if among is None or path in among
    }
    recorder = _Recorder({id(module): path for path, module in looked_at.items()})
    hooks = []
    for module in looked_at.values():
        hooks.append(module.register_forward_pre_hook(recorder.enter, with_kwargs=True))
        hooks.append(
            module.register_forward_hook(recorder.leave, with_kwargs=True, always_call=True)
        )
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.calls


class _Recorder:
    def __init__(self, paths: dict[int, str]) -> None:
        self.calls: list[OutsideCall] = []
        self._paths = paths
        self._depth = 0
        self._now: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self._versions: dict[str, int] = {}

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        self._now = {k: v for k, v in bind(module, args, kwargs).items() if v is not None}
        self._before = rebuilt(self._now, {})
        self._versions = {key: value._version for key, value in leaves(self._now).items()}

    def leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        self._depth -= 1
        if self._depth:
            return
        path, before = self._paths[id(module)], leaves(self._before)
        written = [key for key, value in before.items() if value._version != self._versions[key]]
        if written:
            raise CaptureError(
                f"{path or type(module).__name__}: a call writes into the tensor {written[0]} that "
                "it is given; a part must return what it makes, since a compiled one cannot write "
                "into its inputs"
            )
        after, answer = leaves(self._now), rebuilt(result, {})
        self.calls.append(OutsideCall(path, self._before, before, after, leaves(answer), answer))

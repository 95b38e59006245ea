"""Where code that is no module's enters the modules of a model.

::

    pipeline(…)                     code outside
      -> unet.forward               entry: unet.forward
      -> vae.decode                 entry: vae.decode
           -> vae.post_quant_conv   inside of it
           -> vae.decoder           inside of it

A method that calls a module again and again, as `generate` does, is a loop of the model's own:
entries are looked for inside of it. So they are inside of one that is *opened* since it is no
graph: it draws random numbers, or its path follows from values.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from awqc.recording.instead import FORWARD


class EntryPoint(NamedTuple):
    """A method of a module that is called from outside of all modules."""

    path: str
    method: str = FORWARD

    def __str__(self) -> str:
        way = () if self.method == FORWARD else (self.method,)
        return ".".join((*filter(None, [self.path]), *way))


def modules_of(model: Any) -> dict[str, nn.Module]:
    """The modules of ``model`` by path.

    It is a module itself, or an object that has some as attributes, such as a pipeline.
    """
    if isinstance(model, nn.Module):
        return dict(model.named_modules())
    found: dict[str, nn.Module] = {}
    for name, value in getattr(model, "__dict__", {}).items():
        if isinstance(value, nn.Module):
            for path, module in value.named_modules():
                found[f"{name}.{path}" if path else name] = module
    return found


def find_entries(
    modules: Mapping[str, nn.Module],
    run: Callable[[], object],
    opened: Collection[EntryPoint] = (),
) -> list[EntryPoint]:
    """The entries of ``modules`` while ``run`` runs, in the order of their first calls.

    In place of those that are ``opened`` are what they call.
    """
    watch = _Watch({id(module): path for path, module in modules.items()}, frozenset(opened))
    with ExitStack() as stack, torch.no_grad():
        for module in modules.values():
            for hook in (
                module.register_forward_pre_hook(watch.enter),
                module.register_forward_hook(watch.leave, always_call=True),
            ):
                stack.callback(hook.remove)
        run()
    return watch.entries()


def own_methods(model: nn.Module, path: str) -> list[EntryPoint]:
    """The methods of the modules around the one at ``path``, as their classes define them.

    Those that torch gives to every module, and those that Python calls, are none of them.
    """
    found: dict[EntryPoint, None] = {}
    while path:
        path = path.rpartition(".")[0]
        for kind in type(model.get_submodule(path)).__mro__:
            if kind is nn.Module:
                break
            for name, value in vars(kind).items():
                if inspect.isfunction(value) and name != FORWARD and not name.startswith("__"):
                    found[EntryPoint(path, name)] = None
    return list(found)


@dataclass
class _MethodCall:
    """A call of a module's method that is under way."""

    frame: FrameType
    entry: EntryPoint
    called: set[str] = field(default_factory=set)


class _Watch:
    def __init__(self, paths: dict[int, str], opened: frozenset[EntryPoint]) -> None:
        self._paths = paths
        self._opened = opened
        self._depth = 0
        self._ways: dict[tuple[EntryPoint, ...], None] = {}
        self._loops: set[EntryPoint] = set()
        # Frames that are referred to keep their identity; only those that still run are kept.
        self._under_way: list[_MethodCall] = []

    def enter(self, module: nn.Module, _: Any) -> None:
        path = self._paths[id(module)]
        if EntryPoint(path) in self._opened:
            return
        self._depth += 1
        if self._depth > 1:
            return
        known = {id(call.frame): call for call in self._under_way}
        self._under_way = [
            known.get(id(frame)) or _MethodCall(frame, entry) for frame, entry in self._methods()
        ]
        for call in self._under_way:
            if path in call.called:
                self._loops.add(call.entry)
            call.called.add(path)
        self._ways[(*(call.entry for call in self._under_way), EntryPoint(path))] = None

    def leave(self, module: nn.Module, *_: Any) -> None:
        if EntryPoint(self._paths[id(module)]) not in self._opened:
            self._depth -= 1

    def entries(self) -> list[EntryPoint]:
        """Of each way into a module the outermost method that is no loop and not opened."""
        self._under_way = []
        passed = self._loops | self._opened
        return list(
            dict.fromkeys(
                next(entry for entry in way if entry == way[-1] or entry not in passed)
                for way in self._ways
            )
        )

    def _methods(self) -> list[tuple[FrameType, EntryPoint]]:
        """Methods of known modules on the stack, the outermost first."""
        found = list(self._on_stack())
        return found[::-1]

    def _on_stack(self) -> Iterator[tuple[FrameType, EntryPoint]]:
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            if _is_public(code):
                owner = frame.f_locals.get(code.co_varnames[0])
                path = self._paths.get(id(owner))
                if path is not None and callable(getattr(type(owner), code.co_name, None)):
                    yield frame, EntryPoint(path, code.co_name)
            frame = frame.f_back


def _is_public(code: CodeType) -> bool:
    """Whether it may be a method that others call; a private one is a piece of its class."""
    known = code.co_argcount > 0 and code.co_filename != torch_module.__file__
    return known and not code.co_name.startswith("_")

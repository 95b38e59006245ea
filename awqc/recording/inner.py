"""The calls of modules inside of a call of the whole, and runs that end at one of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import nn

from awqc.recording.calls import bind
from awqc.recording.entries import EntryPoint
from awqc.recording.instead import FORWARD, forward_instead, method_instead
from awqc.recording.structures import Leaves, leaves


@dataclass(frozen=True)
class InnerCall:
    """A call of a module, or of a method that is watched, at any depth.

    Attributes:
        path: of the module.
        given: the tensors in its arguments, by the names of parameters.
        result: the tensors in its result, as they were when it returned; none where the run ended
            at this call.
        entered: its place in the order in which calls begin.
        left: its place in the order in which calls end.
        method: that was called.
    """

    path: str
    given: Leaves
    result: Leaves
    entered: int
    left: int
    method: str = FORWARD


class _Ended(Exception):  # noqa: N818  no error: the run has shown what was asked for
    """A run has come as far as it has to."""


Until = Callable[[Sequence[InnerCall], InnerCall], bool]
"""Of the calls that have ended, and of one that begins: whether it is the last that matters."""


def record_inner(
    model: nn.Module,
    run: Callable[[], object],
    among: Collection[str] | None = None,
    until: Until = lambda calls, call: False,
    methods: Iterable[EntryPoint] = (),
) -> list[InnerCall]:
    """The calls of submodules of ``model``, as they begin, while ``run`` runs.

    ``among`` are the paths of the modules that are looked at; None: all. The run ends where
    ``until`` says so of a call, which is then the last one; calls around it are not listed.
    Calls of ``methods`` are listed as well; no run ends at one.
    """
    recorder = _Recorder(until)
    with ExitStack() as stack:
        for path, module in model.named_modules():
            if path and (among is None or path in among):
                stack.enter_context(recorder.watching(path, module))
        for entry in methods:
            owner = model.get_submodule(entry.path)
            watched = recorder.watched(entry, owner)
            stack.enter_context(method_instead(owner, entry.method, watched))
        with torch.no_grad(), suppress(_Ended):
            run()
    return sorted(recorder.calls, key=lambda call: call.entered)


class _Recorder:
    def __init__(self, until: Until) -> None:
        self.calls: list[InnerCall] = []
        self._until = until
        self._open: list[tuple[int, Leaves]] = []
        self._entered = 0

    @contextmanager
    def watching(self, path: str, module: nn.Module) -> Iterator[None]:
        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = leaves(_named(module, args, kwargs))
            self._open.append((self._entered, given))
            self._entered += 1
            if self._until(self.calls, InnerCall(path, given, {}, self._entered - 1, -1)):
                self._close(path, {})
                raise _Ended

        def leave(*call: Any) -> None:
            made = leaves(call[-1])
            self._close(path, {key: value.clone() for key, value in made.items()})

        hooks = (
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def watched(self, entry: EntryPoint, module: nn.Module) -> Callable[..., Any]:
        """The method of ``entry``, with its calls noted."""
        own = getattr(module, entry.method)

        @wraps(own)
        def method(*args: Any, **kwargs: Any) -> Any:
            entered, given = self._entered, leaves(_named(own, args, kwargs))
            self._entered += 1
            answer = own(*args, **kwargs)
            result = {key: value.clone() for key, value in leaves(answer).items()}
            self.calls.append(
                InnerCall(entry.path, given, result, entered, len(self.calls), entry.method)
            )
            return answer

        return method

    def _close(self, path: str, result: Leaves) -> None:
        entered, given = self._open.pop()
        self.calls.append(InnerCall(path, given, result, entered, len(self.calls)))


def _named(
    called: nn.Module | Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Arguments by name; by their place where any number of them is taken."""
    try:
        return bind(called, args, kwargs)
    except Exception:  # noqa: BLE001  whatever a signature cannot bind is named by place
        return {**{str(place): value for place, value in enumerate(args)}, **kwargs}


def result_inside(
    model: nn.Module, path: str, run: Callable[[], object], method: str = FORWARD
) -> Any:
    """What ``method`` of the module at ``path`` gives while ``run`` runs ``model``.

    Nothing behind it is run. Every module returns from its call, also where torch traces them:
    those around the one at ``path`` return nothing.

    Raises:
        LookupError: it is not called.
    """
    found: list[Any] = []
    around = [path.rpartition(".")[0]] if method == FORWARD else [path]
    while around[-1]:
        around.append(around[-1].rpartition(".")[0])

    def seen(forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def called(*args: Any, **kwargs: Any) -> Any:
            found.append(forward(*args, **kwargs))
            return _Nothing()

        return called

    def left(forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def called(*args: Any, **kwargs: Any) -> Any:
            with _until(found):
                return forward(*args, **kwargs)

        return called

    with ExitStack() as stack:
        owner = model.get_submodule(path)
        stack.enter_context(method_instead(owner, method, seen(getattr(owner, method))))
        for each in around:
            module: Any = model.get_submodule(each)
            stack.enter_context(forward_instead(module, left(module.forward)))
        with _until(found):
            run()
    if not found:
        raise LookupError(f"{path} is not called")
    return found[0]


@contextmanager
def _until(found: list[Any]) -> Iterator[None]:
    """Let whatever is raised once there is something in ``found`` be the end."""
    try:
        yield
    except Exception:
        if not found:
            raise


class _Nothing:
    """What code gets in place of a result behind which it shall not go: it can do nothing."""

    def __getattr__(self, name: str) -> Any:
        raise _Ended

    def __iter__(self) -> Any:
        raise _Ended

    def __getitem__(self, key: object) -> Any:
        raise _Ended


@contextmanager
def given_instead(module: nn.Module, values: Mapping[str, Any]) -> Iterator[None]:
    """Let calls of ``module`` be given ``values`` as the arguments of these names."""

    def enter(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {**bind(module, args, kwargs), **values}

    hook = module.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()

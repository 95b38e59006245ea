"""The calls of modules from outside of all modules, while an entry point runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from awqc.errors import CaptureError
from awqc.recording.calls import bind_given
from awqc.recording.entries import EntryPoint
from awqc.recording.instead import FORWARD, method_instead
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
        method: of the module, that was called.
        versions: of its tensors as they were noted, by which one sees who was written into since.
    """

    path: str
    arguments: dict[str, Any]
    before: Leaves
    after: Leaves
    result: Leaves
    answer: Any
    method: str = FORWARD
    versions: tuple[tuple[Tensor, int], ...] = ()

    @property
    def intact(self) -> bool:
        """Whether nobody wrote into its tensors since, so that they are what was given and made."""
        return all(value._version == version for value, version in self.versions)

    @property
    def left(self) -> Leaves:
        """What there is after the call: a state that it was given nothing of may be a result."""
        return {**self.result, **self.after}


def record_outermost(
    model: nn.Module,
    run: Callable[[], object],
    among: Collection[str] | None = None,
    writing: bool = False,
) -> list[OutsideCall]:
    """The calls of ``model`` and its submodules from outside, in order, while ``run`` runs.

    A module that another one calls is a piece of that one and is not listed. ``among`` are the
    paths of the modules that are looked at; None: all. Where calls may be ``writing`` into what
    they are given, such as a state that does not grow, ``before`` has what they left there.

    Raises:
        CaptureError: a call writes into a tensor that it was given, and may not.
    """
    modules = dict(model.named_modules())
    entries = [EntryPoint(path) for path in modules if among is None or path in among]
    return _recorded(_Recorder(frozenset(), writing), modules, entries, run)


def record_entries(
    modules: Mapping[str, nn.Module],
    entries: Iterable[EntryPoint],
    run: Callable[[], object],
    copied: Collection[EntryPoint] = (),
) -> list[OutsideCall]:
    """The calls of ``entries`` that none of them makes itself, in order, while ``run`` runs.

    Of those ``copied`` the tensors are: whoever made them writes into them later.

    Raises:
        CaptureError: a call writes into a tensor that it was given.
    """
    return _recorded(_Recorder(frozenset(copied), False), modules, entries, run)


def _recorded(
    recorder: _Recorder,
    modules: Mapping[str, nn.Module],
    entries: Iterable[EntryPoint],
    run: Callable[[], object],
) -> list[OutsideCall]:
    with ExitStack() as stack, torch.no_grad():
        for entry in entries:
            module = modules[entry.path]
            watched = recorder.watched(entry, module)
            stack.enter_context(method_instead(module, entry.method, watched))
        run()
    return recorder.calls


class _Recorder:
    def __init__(self, copied: frozenset[EntryPoint], writing: bool) -> None:
        self.calls: list[OutsideCall] = []
        self._copied, self._writing = copied, writing
        self._busy = False

    def watched(self, entry: EntryPoint, module: nn.Module) -> Callable[..., Any]:
        """The method of ``entry``, with its calls noted."""
        own = getattr(module, entry.method)

        @wraps(own)
        def method(*args: Any, **kwargs: Any) -> Any:
            if self._busy:
                return own(*args, **kwargs)
            self._busy = True
            try:
                return self._note(entry, module, own, args, kwargs)
            finally:
                self._busy = False

        return method

    def _note(
        self,
        entry: EntryPoint,
        module: nn.Module,
        own: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        now = bind_given(own, args, kwargs)
        given = leaves(now)
        versions = {key: value._version for key, value in given.items()}
        kept = self._kept(entry, now)
        result = own(*args, **kwargs)
        written = [key for key, value in given.items() if value._version != versions[key]]
        if written and not self._writing:
            raise CaptureError(
                f"{str(entry) or type(module).__name__}: a call writes into {written[0]}, a tensor "
                "that it is given; a part must return what it makes, since a compiled one cannot "
                "write into its inputs"
            )
        after, answer = leaves(now), self._kept(entry, result)
        before, made = leaves(kept), leaves(answer)
        noted = tuple((value, value._version) for value in (*before.values(), *made.values()))
        self.calls.append(
            OutsideCall(entry.path, kept, before, after, made, answer, entry.method, noted)
        )
        return result

    def _kept(self, entry: EntryPoint, value: Any) -> Any:
        """``value`` built anew, so that code that changes it later changes nothing here."""
        tensors = leaves(value) if entry in self._copied else {}
        copies = {id(x): x.clone() for x in tensors.values()}
        return rebuilt(value, {path: copies[id(x)] for path, x in tensors.items()})

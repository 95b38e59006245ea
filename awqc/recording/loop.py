"""A module that a loop calls again and again, such as a decoder, and what it carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from awqc.errors import CaptureError
from awqc.recording.outermost import OutsideCall
from awqc.recording.structures import constants


@dataclass(frozen=True)
class Loop:
    """How the calls of one module hang together; tensors are named by their path.

        first:  tokens, states of an encoder             -> logits, cache
        later:  tokens, states of an encoder, cache      -> logits, cache

    Attributes:
        path: of the module.
        first: its first call, which has no state yet.
        later: its second one.
        states: what each call makes and the next one takes, such as keys and values of attention
            to earlier tokens.
        once: what the first call makes and all others take as it is, such as keys and values of
            attention to an encoder's states.
        fresh: what is new at each call, such as tokens.
        given: what is the same in all calls.
        made: what a call makes besides, by the path in its result, such as logits.
    """

    path: str
    first: OutsideCall
    later: OutsideCall
    states: tuple[str, ...]
    once: tuple[str, ...]
    fresh: tuple[str, ...]
    given: tuple[str, ...]
    made: tuple[str, ...]

    @classmethod
    def of(cls, calls: Sequence[OutsideCall]) -> Loop:
        """The loop that makes ``calls``, all of one module; three at least.

        Raises:
            CaptureError: something is carried from call to call that is no tensor, or a tensor is
                there in some calls only.
        """
        where = calls[0].path or "the model"
        if len(calls) == 1:
            raise CaptureError(
                f"{where}: no call of it is given more than the one before: it keeps no state and "
                "reads everything anew"
            )
        first, later, *more = calls
        if not more:
            raise CaptureError(
                f"{where}: is called {len(calls)} times only; three calls are needed to tell what "
                "it carries from one to the next"
            )
        _check_constants(where, later, more)
        states: list[str] = []
        once: list[str] = []
        fresh: list[str] = []
        given: list[str] = []
        for path, value in later.before.items():
            if all(call.before.get(path) is value for call in more):
                (given if path in first.before else once).append(path)
            elif all(
                after.before.get(path) is before.left.get(path)
                for before, after in zip([first, later, *more], [later, *more], strict=False)
            ):
                states.append(path)
            else:
                fresh.append(path)
        if made := [path for path in once if first.left.get(path) is not later.before[path]]:
            raise CaptureError(
                f"{where}: takes {made[0]} from the second call on, which is none of what the "
                "first call made"
            )
        if not states:
            raise CaptureError(
                f"{where}: is called {len(calls)} times and carries no tensor from one call to "
                "the next: it keeps its state in a way of its own"
            )
        known = {id(value) for value in (*later.before.values(), *later.after.values())}
        made = [path for path, value in later.result.items() if id(value) not in known]
        found = map(tuple, (states, once, fresh, given, made))
        return cls(first.path, first, later, *found)


def longest_loop(calls: Sequence[OutsideCall]) -> list[OutsideCall]:
    """The most of ``calls`` that are one loop; a call that is given no more begins another one."""
    loops: list[list[OutsideCall]] = []
    for call in calls:
        if not loops or len(call.before) <= len(loops[-1][0].before):
            loops.append([])
        loops[-1].append(call)
    return max(loops, key=len)


def _check_constants(where: str, later: OutsideCall, more: Sequence[OutsideCall]) -> None:
    """Refuse a loop that counts in a number, which one graph would fix."""
    known = constants(later.arguments)
    for call in more:
        for path, value in constants(call.arguments).items():
            if known.get(path) != value:
                raise CaptureError(
                    f"{where}: the argument {path} is {known.get(path)!r} in one call and "
                    f"{value!r} in the next; what changes from call to call must be a tensor"
                )


def sources(
    calls: Sequence[OutsideCall], taking: OutsideCall, names: Sequence[str]
) -> dict[str, tuple[OutsideCall, str]]:
    """For each of ``names``, tensors that ``taking`` was given, the earlier call that made it.

    What none of ``calls`` made is left out.
    """
    made = {
        id(value): (call, path)
        for call in calls[: next(i for i, call in enumerate(calls) if call is taking)]
        for path, value in call.result.items()
    }
    found = {name: made.get(id(taking.before[name])) for name in names}
    return {name: source for name, source in found.items() if source is not None}

"""Arguments of a loop's calls that change nothing: the module makes them itself without being told.

As the place of each token, which follows from how many there are in the cache, or a mask of ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import torch

from awqc.recording.flat import FlatCall
from awqc.recording.loop import Loop
from awqc.recording.near import near_everywhere
from awqc.recording.outermost import OutsideCall
from awqc.recording.structures import leaves, rebuilt

CLOSE = 1e-5
"""How far results may lie apart, relative to the largest number, and be the same."""


def spare_arguments(forward: Callable[..., Any], loop: Loop) -> tuple[str, ...]:
    """Names of what is ``loop.fresh`` and need not be given to ``forward``, the module's own.

    Each is left out of the first two calls, whose results are the same then.
    """
    return tuple(name for name in loop.fresh if _is_spare(forward, loop, name))


def _is_spare(forward: Callable[..., Any], loop: Loop, name: str) -> bool:
    for call in (loop.first, loop.later):
        arguments = {key: value for key, value in call.arguments.items() if key != name}
        try:
            with torch.no_grad():
                made = FlatCall(forward, arguments, loop.made, {})({})
        except Exception:  # noqa: BLE001 - code that needs the argument may fail in any way
            return False
        if not all(near_everywhere(made[path], call.result[path], CLOSE) for path in loop.made):
            return False
    return True


def without(calls: Sequence[OutsideCall], names: Collection[str]) -> list[OutsideCall]:
    """``calls`` as they would be if arguments called ``names`` had not been given."""
    if not names:
        return list(calls)
    return [_without(call, names) for call in calls]


def _without(call: OutsideCall, names: Collection[str]) -> OutsideCall:
    arguments = {key: v for key, v in call.arguments.items() if key not in names}
    return replace(
        call,
        arguments=rebuilt(arguments, {}),
        before=leaves(arguments),
        after={path: value for path, value in call.after.items() if path not in names},
    )

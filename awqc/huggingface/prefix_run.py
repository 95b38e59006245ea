"""A run of `generate` that loops around a model that reads an image at its first call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from awqc.errors import CaptureError
from awqc.huggingface.generating import TOKENS
from awqc.kv_cache import POSITIONS
from awqc.recording.loop import Loop, longest_loop
from awqc.recording.outermost import OutsideCall
from awqc.recording.spare import without
from awqc.recording.structures import Leaves

WHOLE = ("",)
"""The paths of the calls that are recorded: that of the model itself."""


@dataclass(frozen=True)
class PrefixRun:
    """A run of `generate` that loops around the model itself.

    Attributes:
        loop: its calls, without positions.
        calls: the same, in order.
        opening: what the first call takes and no other one.
        places: whether the calls are given positions, which count the tokens.
        prefix: rows in front of the first token.
        repeated: what the calls are given besides, a row for each token, and for new ones the last
            row of the prompt.
    """

    loop: Loop
    calls: tuple[OutsideCall, ...]
    opening: tuple[str, ...]
    places: bool
    prefix: int
    repeated: tuple[str, ...] = ()

    @classmethod
    def of(cls, calls: Sequence[OutsideCall], where: str) -> PrefixRun:
        """The run that made ``calls``.

        Raises:
            CaptureError: it is no loop around the model, or nothing stands in front of the text.
        """
        if not calls or any(call.path for call in calls):
            raise CaptureError(f"{where}: generate does not call the model as a whole in a loop")
        own = longest_loop(calls)
        loop = Loop.of(own)
        opening = [n for n in loop.first.before if n not in (*loop.later.before, *loop.fresh)]
        repeated = tuple(name for name in loop.fresh if name not in (TOKENS, POSITIONS))
        if (
            not opening
            or TOKENS not in loop.fresh
            or not all(_repeats(name, loop) for name in repeated)
        ):
            raise CaptureError(
                f"{where}: at each call the model takes {', '.join(loop.fresh)}, and at the first "
                f"{', '.join(opening) or 'nothing'} besides; tokens, an image, and what follows "
                "from the prompt are needed"
            )
        tokens = loop.first.before[TOKENS].shape[1]
        places = POSITIONS in loop.fresh
        if places and int(loop.later.before[POSITIONS].max()) != tokens:
            raise CaptureError(f"{where}: {POSITIONS} do not count the tokens of the text")
        plain = without(own, (POSITIONS,))
        rows = loop.first.left[loop.states[0]].shape[2] - tokens
        return cls(Loop.of(plain), tuple(plain), tuple(opening), places, rows, repeated)

    @property
    def kept(self) -> tuple[str, ...]:
        """What the encoder makes: rows in front of the text, and what layers of their own read."""
        return (*(self.loop.states if self.prefix else ()), *self.loop.once)


def begun(run: PrefixRun, left: Leaves) -> Leaves:
    """Of what the first call ``left`` that which is known before the first token."""
    rows = {path: left[path][:, :, : run.prefix] for path in run.loop.states}
    return {**rows, **{path: left[path] for path in run.loop.once}}


def _repeats(name: str, loop: Loop) -> bool:
    """Whether what a later call is given as ``name`` is the last row of what the first one is."""
    first, later = loop.first.before.get(name), loop.later.before[name]
    tokens = loop.first.before[TOKENS]
    if first is None or first.shape[:2] != tokens.shape:
        return False
    return torch.equal(first[:, -1:], later)

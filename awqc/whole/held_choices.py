"""What code between the parts decides of what they make: a token, how many frames, when to stop.

A decision that falls otherwise makes all that follows another sound, or another text, of which no
distance says much. So what a compiled model makes is compared once more with the decisions of the
original::

    free:  a b x …  against  a b c …       another sound
    held:  a b c …  against  a b c …       what quantization cost

Whole numbers are held where parts are given them. Where a decision shows in sizes alone, as that of
how many frames a word lasts, what the part before it says is taken from the original.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from awqc.errors import CaptureError
from awqc.program import Batch
from awqc.whole.recorded_parts import RecordedPart


class StrayedError(CaptureError):
    """A part is called otherwise than when it was recorded.

    Attributes:
        before: names of the parts that were called before it, the last one first.
    """

    def __init__(self, text: str, before: tuple[str, ...]) -> None:
        super().__init__(text)
        self.before = before


@dataclass
class Choices:
    """The decisions of a run.

    Attributes:
        held: whether they are those that were recorded; a run that cannot be held so is ended.
        answers: parts whose results are those that were recorded, if ``held``.
        calls: how many there were.
        otherwise: of how many something was decided otherwise before.
    """

    held: bool = False
    answers: frozenset[str] = frozenset()
    calls: int = 0
    otherwise: int = 0
    _places: Counter[str] = field(default_factory=Counter)
    _order: dict[str, None] = field(default_factory=dict)

    def given(self, part: RecordedPart, batch: Batch) -> Batch:
        """What ``part`` is to be given in place of ``batch``, in its next call.

        Raises:
            StrayedError: `held`, and there was no such call.
        """
        place = self._places[part.name]
        known = part.calls[place].before if place < len(part.calls) else {}
        recorded = {name: known.get(path) for path, name in part.inputs.items()}
        strayed = [
            name
            for name, value in recorded.items()
            if value is None or value.shape != batch[name].shape
        ]
        numbers = {
            name: value
            for name, value in recorded.items()
            if value is not None
            and not value.is_floating_point()
            and not torch.equal(value, batch[name])
        }
        self.calls += 1
        self.otherwise += bool(strayed or numbers)
        if self.held and strayed:
            raise StrayedError(
                f"{part.name}: call {place + 1} is given {strayed[0]} in another size than when it "
                "was recorded",
                self._before,
            )
        self._places[part.name] += 1
        self._order = {part.name: None, **{name: None for name in self._order if name != part.name}}
        return {**batch, **numbers} if self.held else batch

    def made(self, part: RecordedPart, answer: dict[str, Tensor]) -> dict[str, Tensor]:
        """What ``part`` is said to have made in its last call, by path, in place of ``answer``."""
        place = self._places[part.name] - 1
        if not self.held or part.name not in self.answers or place >= len(part.calls):
            return answer
        return {path: part.calls[place].result[path] for path in answer}

    def end(self, parts: tuple[RecordedPart, ...]) -> None:
        """Take in that the run has come to its end.

        Raises:
            StrayedError: `held`, and a part was called less often than when it was recorded.
        """
        for part in parts:
            if self._places[part.name] < len(part.calls):
                self.otherwise += 1
                if self.held:
                    raise StrayedError(
                        f"{part.name}: is called {self._places[part.name]} times, and was called "
                        f"{len(part.calls)} times when it was recorded",
                        self._before,
                    )

    @property
    def _before(self) -> tuple[str, ...]:
        return tuple(self._order)

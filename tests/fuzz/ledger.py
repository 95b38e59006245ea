"""What numbered cases of one kind gave: kept in a file, so that a long run may go in parts."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent / "counted"
SAVED_EVERY = 10.0
"""Seconds between two times that the file is written."""

Look = Callable[[int], Iterable[str]]
"""Runs the case of a number; what is to be counted of it. Whatever it raises is a find."""


@dataclass
class Ledger:
    """The cases from number 0 on.

    Attributes:
        kind: of the cases.
        done: how many were run.
        seconds: of a processor that they took.
        counts: what was to be counted.
        finds: what went wrong, by the number of the case.
        mended: numbers of finds that went well when they were run again.
    """

    kind: str
    done: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    finds: dict[str, str] = field(default_factory=dict)
    mended: list[int] = field(default_factory=list)

    @classmethod
    def read(cls, kind: str, folder: Path = FOLDER) -> Ledger:
        """The ledger of a kind; an empty one where there is none."""
        path = folder / f"{kind}.json"
        if not path.exists():
            return cls(kind)
        kept = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**kept, "counts": Counter(kept["counts"])})

    def write(self, folder: Path = FOLDER) -> None:
        """Keep it."""
        folder.mkdir(exist_ok=True)
        made = folder / f"{self.kind}.json.new"
        text = json.dumps({**asdict(self), "counts": dict(sorted(self.counts.items()))}, indent=1)
        made.write_text(text + "\n", encoding="utf-8")
        made.replace(folder / f"{self.kind}.json")

    @property
    def open_finds(self) -> list[int]:
        """Numbers of the finds that are not mended."""
        return [number for number in map(int, self.finds) if number not in self.mended]

    def run(
        self, look: Look, until: int, tell: Callable[[str], object], folder: Path = FOLDER
    ) -> None:
        """Look at the finds again that are not mended, then at what is missing up to ``until``."""
        for number in self.open_finds:
            if attempt(look, number)[1] is None:
                self.mended.append(number)
        self.write(folder)
        spent, saved = _spent(), time.monotonic()
        while self.done < until:
            self.look(look, tell)
            if time.monotonic() - saved > SAVED_EVERY or self.done == until:
                self.seconds, spent, saved = (
                    self.seconds + _spent() - spent,
                    _spent(),
                    time.monotonic(),
                )
                self.write(folder)

    def look(self, look: Look, tell: Callable[[str], object]) -> None:
        """Look at the next case."""
        counted, failure = attempt(look, self.done)
        self.counts.update(counted)
        if failure is not None:
            self.finds[str(self.done)] = brief(failure)
            tell(f"{self.kind} {self.done}: {failure}")
        self.done += 1


def brief(failure: str) -> str:
    r"""``failure`` without the lines of a traceback, which name files of one machine.

    >>> brief("AssertionError: Case(1)\nTraceback (…):\n  File \"/a.py\"\nTypeError: no\nawqc: …")
    'AssertionError: Case(1); TypeError: no'
    """
    left = (line for line in failure.splitlines() if line)
    return "; ".join(line for line in left if not line.startswith((" ", "Traceback", "awqc: ")))


def attempt(look: Look, number: int) -> tuple[list[str], str | None]:
    """What was counted of a case, and how it failed."""
    try:
        return list(look(number)), None
    except Exception as error:  # noqa: BLE001 - every kind of failure is a find
        return [], f"{type(error).__name__}: {error}"


def _spent() -> float:
    """Seconds of a processor that this process and its children have taken."""
    return sum(os.times()[:4])

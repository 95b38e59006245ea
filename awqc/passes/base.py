"""What a pass is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from awqc.program import Program


@dataclass(frozen=True)
class Change:
    """One thing that a pass did, or refused to do.

    Attributes:
        where: node, module path or weight.
        what: what became of it.
        refused: whether it was left alone; ``what`` is then the reason.
    """

    where: str
    what: str
    refused: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {'refused: ' if self.refused else ''}{self.what}"


@runtime_checkable
class Pass(Protocol):
    """A rewrite of a program: a frozen dataclass whose fields are its options.

    Attributes:
        name: as written in a pipeline.
        keeps_output: whether the model's float outputs must stay, to rounding; the
            pipeline checks it.
    """

    name: ClassVar[str]
    keeps_output: ClassVar[bool]

    def apply(self, program: Program) -> list[Change]:
        """Edit ``program``; returns what changed and what was refused."""
        ...

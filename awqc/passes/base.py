"""What a pass is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from awqc.executor.run import NO_DATA, Run
from awqc.findings import NO_FACTS, Facts
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

    What it needs and gives may depend on its options. A field that holds a dataclass stands
    for the options that are the fields of that.

    Attributes:
        name: as written in a pipeline.
        keeps_output: whether the model's float outputs must stay, to rounding; the
            pipeline checks it.
    """

    name: ClassVar[str]
    keeps_output: ClassVar[bool]

    @property
    def needs(self) -> Facts:
        """Facts that must hold before it."""
        return NO_FACTS

    @property
    def bars(self) -> Facts:
        """Facts that must not hold before it."""
        return NO_FACTS

    @property
    def gives(self) -> Facts:
        """Facts that hold after it."""
        return NO_FACTS

    @property
    def ends(self) -> Facts:
        """Facts that no longer hold after it, unless it gives them."""
        return NO_FACTS

    def apply(self, program: Program, run: Run = NO_DATA) -> list[Change]:
        """Edit ``program``; returns what changed and what was refused."""
        ...

"""Show the graph between passes."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console

from awqc.artifacts.growing import GrowingFolder
from awqc.errors import UsageError
from awqc.graph.dump import compare_weights, diff, dump
from awqc.passes.base import Change, Pass
from awqc.passes.pipeline import PASSES, Observe
from awqc.program import Program


@dataclass
class Watch:
    """What --print-after, --print-changed and --dump-dir ask for."""

    err: Console
    print_after: str | None
    print_changed: bool
    dumps: GrowingFolder | None
    _count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.print_after not in (None, "all", *PASSES):
            raise UsageError(
                f"--print-after {self.print_after!r}: give all, or one of {', '.join(PASSES)}"
            )

    @property
    def observe(self) -> Observe | None:
        """The callback for the pipeline, or None if nothing was asked for."""
        wanted = self.print_after or self.print_changed or self.dumps is not None
        return self._observe if wanted else None

    def _observe(self, step: Pass, before: Program, after: Program, changes: list[Change]) -> None:
        text = dump(after.graph_module)
        if self.print_after in ("all", step.name):
            self._print(f"graph after {step.name}:\n{text}")
        if self.print_changed:
            self._print(f"{step.name}: {len(changes)} changes\n")
            self._print("".join(f"  {change}\n" for change in changes))
            self._print(diff(dump(before.graph_module), text))
            lines = compare_weights(before.graph_module, after.graph_module)
            self._print("".join(f"{line}\n" for line in lines))
        if self.dumps is not None:
            self.dumps.add(f"{self._count:02}-{step.name}.txt", text)
        self._count += 1

    def _print(self, text: str) -> None:
        self.err.print(text, soft_wrap=True, end="")

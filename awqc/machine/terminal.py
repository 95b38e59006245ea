"""The one way to the terminal: names out of files cannot steer it, nor look like something else.

All that the commands print goes through `echo` or a `console`, errors included. Control
characters and those that turn the direction of writing are shown by their numbers, and square
brackets are no markup: what is to be coloured is a `rich.text.Text`, or printed with a style.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable
from types import TracebackType

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from awqc.errors import printable
from awqc.machine.streams import print_no_more

LOG_WIDTH = 160
"""Columns at least, where the output is no terminal."""


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print ``text`` to stdout, or to stderr."""
    click.echo(printable(text), err=err, nl=nl)


class PlainConsole(Console):
    """A console that prints text as it is, and shows what would steer the terminal.

    It prints as long as somebody reads; a closed pipe, as of ``| head``, ends no work.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich does; the texts are made printable, its own control codes stay."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Print nothing from now on, in place of rich's exit with code 1."""
        self.quiet = True
        print_no_more(sys.stderr if self.stderr else sys.stdout)


def console(stderr: bool = False) -> Console:
    """Where to print; without colours and not cut to a width where it is no terminal."""
    made = PlainConsole(stderr=stderr, highlight=False, markup=False, emoji=False)
    if made.is_terminal:
        return made
    return PlainConsole(
        stderr=stderr, highlight=False, markup=False, emoji=False,
        width=max(made.width, LOG_WIDTH), no_color=True,
    )  # fmt: skip


def labelled(label: str, style: str, text: str) -> Text:
    """``text`` after a coloured ``label``."""
    return Text.assemble((f"{label}:", style), f" {text}")


def print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """An exception that nobody caught, as Python shows it; for `sys.excepthook`."""
    sys.stderr.write(printable("".join(traceback.format_exception(kind, error, trace))))

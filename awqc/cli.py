"""The command line: ``awqc COMMAND …``. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import errno
import importlib
import io
import platform
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import click

from awqc.artifacts.record import Record, recording, said
from awqc.errors import AwqcError, worded
from awqc.machine.stopping import (
    TERMINATED,
    exit_code,
    ignore_signals,
    stop_on_signals,
    tell_lost_pages,
)
from awqc.machine.streams import print_no_more
from awqc.machine.strict import is_strict
from awqc.machine.terminal import echo, print_traceback

COMMANDS = (
    "compile",
    "plan",
    "explain",
    "diff",
    "verify",
    "passes",
    "demo",
    "generate",
    "chat",
    "run",
    "eval",
    "bench",
    "tune",
)


class Commands(click.Group):
    """Loads a command's module when it is asked for: torch is slow to import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command called ``cmd_name``."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"awqc.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; that nobody reads its output to the end is no failure."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            print_no_more(sys.stdout)
            return None


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed or not verified, 2 wrong usage, 130 interrupted, "
    "143 told to end. "
    "Start with: awqc demo",
)
@click.version_option(package_name="awqc")
def cli() -> None:
    """Give a PyTorch model low-bit weights by AWQ, export it, and verify the result.

    \b
    awqc compile model.pt --bits 4              quantize, export, verify, report
    awqc explain model.pt                       where scales may be folded, and why not
    awqc demo                                   see it work on handwritten digits
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    warnings.simplefilter("ignore")
    stop_on_signals()
    tell_lost_pages()
    sys.excepthook = print_traceback
    try:
        code = run(arguments)
    except KeyboardInterrupt as error:  # A second signal, while the first is dealt with.
        code = exit_code(error)
    ignore_signals()
    sys.exit(code or _flush())


def _flush() -> int:
    """Print what is still to be printed; the exit code."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        print_no_more(sys.stdout)
    except OSError as error:
        print_no_more(sys.stdout)
        _complain(f"awqc: error: standard output: {error.strerror}")
        return 1
    return 0


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    A fault of awqc's own is shown with its traceback, as what it is; where the environment asks
    for no fallback (`awqc.machine.strict`), it is raised.
    """
    with recording() as record:
        try:
            return _run(arguments, record)
        except Exception as error:
            if is_strict():
                raise
            _report_fault(error, sys.argv[1:] if arguments is None else arguments)
            return 1


def _report_fault(error: Exception, arguments: Sequence[str]) -> None:
    """Say that ``error`` is no mistake of the user's, and what a report of it needs."""
    _complain("".join(traceback.format_exception(error)))
    _complain(
        "awqc: this is a bug in awqc, not in what you gave it. Please report it with all that "
        f"stands above, and:\n  awqc {shlex.join(arguments)}\n"
        f"  awqc {version('awqc')}, torch {version('torch')}, "
        f"Python {platform.python_version()}, {platform.platform()}"
    )


def _run(arguments: Sequence[str] | None, record: Record) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    if (odd := next((each for each in given if "\0" in each), None)) is not None:
        _complain(f"awqc: error: {odd!r} holds a zero character, which no name has")
        return 2
    try:
        code = cli.main(args=arguments, prog_name="awqc", standalone_mode=False)
        return int(code or 0)
    except AwqcError as error:
        from awqc.options.compile_options import on_command_line

        _complain(f"awqc: error: {worded(error.text, on_command_line)}", *_notes(error))
        return error.exit_code
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        echo(shown.getvalue(), err=True, nl=False)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        code = exit_code(error)
        how = "terminated" if code == TERMINATED else "interrupted"
        _complain(f"awqc: {how}; {said(record)}", *_notes(error))
        return code
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"awqc: error: {where}{error.strerror}; {said(record)}", *_notes(error))
        return 1


def _notes(error: BaseException) -> list[str]:
    """What was noted on ``error``, or on what it was raised from: click wraps interruptions."""
    both = error, error.__cause__
    return [note for each in both for note in getattr(each, "__notes__", ())]


def _complain(*lines: str) -> None:
    """Print ``lines`` on stderr, if anybody still listens."""
    with suppress(BrokenPipeError):
        for line in lines:
            echo(line, err=True)

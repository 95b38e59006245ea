"""The command line: ``awqc COMMAND …``. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import errno
import importlib
import sys
import warnings
from collections.abc import Sequence

import click

from awqc.errors import AwqcError, worded

COMMANDS = ("compile", "explain", "diff", "verify", "passes", "demo", "generate", "eval", "bench")
INTERRUPTED = 130


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


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed or not verified, 2 wrong usage. "
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
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        code = cli.main(args=arguments, prog_name="awqc", standalone_mode=False)
        return int(code or 0)
    except AwqcError as error:
        from awqc.options.compile_options import on_command_line

        click.echo(f"awqc: error: {worded(error.text, on_command_line)}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("awqc: interrupted; nothing was written", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"awqc: error: {where}{error.strerror}; nothing was written", err=True)
        return 1

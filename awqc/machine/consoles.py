"""A console whose reader may leave."""

from __future__ import annotations

import sys

from rich.console import Console

from awqc.machine.streams import print_no_more


class LastingConsole(Console):
    """Prints as long as somebody reads; a closed pipe, as of ``| head``, ends no work."""

    def on_broken_pipe(self) -> None:
        """Print nothing from now on, in place of rich's exit with code 1."""
        self.quiet = True
        print_no_more(sys.stderr if self.stderr else sys.stdout)

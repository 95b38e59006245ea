"""``awqc diff``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from awqc.commands.declared import declared

if TYPE_CHECKING:
    from torch.fx import GraphModule


@click.command("diff")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@declared("trust_pickle", "As in awqc compile.")
def command(before: Path, after: Path, trust_pickle: bool) -> None:
    """Show what differs between two graphs, values included.

    BEFORE and AFTER are torch.export archives (.pt2), output folders of awqc compile, or text
    dumps (--dump-dir of awqc compile). Prints nothing where they are equal.
    """
    from awqc.graph.dump import compare_weights, diff, dump
    from awqc.machine.terminal import echo

    first, second = (_read(path, trust_pickle) for path in (before, after))
    texts = [side if isinstance(side, str) else dump(side) for side in (first, second)]
    echo(diff(texts[0], texts[1]), nl=False)
    if not isinstance(first, str) and not isinstance(second, str):
        for line in compare_weights(first, second):
            echo(line)


def _read(path: Path, trust_pickle: bool) -> str | GraphModule:
    """The text of a dump, or the graph of an archive."""
    from awqc.errors import UsageError
    from awqc.sources.source import load_program

    path = path / "model.pt2" if path.is_dir() else path
    if path.suffix.lower() == ".txt":
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: cannot be read as a dump: {error}") from error
    return load_program(path, trust_pickle=trust_pickle).graph_module

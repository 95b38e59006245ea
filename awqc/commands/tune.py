"""``awqc tune``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("tune")
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR"
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Size of axes that vary, as it will mostly be; of a decoder 1.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(folder: Path, tokens: int, as_json: bool) -> None:
    """Fit the models in DIR/ort, which awqc compile wrote, to this machine.

    Each low-bit product is timed on the CPU, as the model has it and exactly; those that are
    faster exactly become so. None becomes less exact.
    """
    from awqc.bench.tuned_levels import tune
    from awqc.machine.terminal import echo

    made = tune(folder, tokens)
    if as_json:
        echo(json.dumps([each.as_dict() for each in made], indent=2))
        return
    for each in made:
        echo(str(each))

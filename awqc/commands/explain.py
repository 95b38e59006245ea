"""``awqc explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from awqc.commands.declared import SOURCE_HELP, calib_option, declared_group


@click.command(
    "explain",
    help=f"""Show each site of MODEL: what folds where, what is tied, what is refused and why.

No calibration is needed. A site is a value and the weights that read it; its scales fold when
every operation that makes or reads the value can take them.

{SOURCE_HELP}""",
)
@click.argument("model")
@declared_group("model")
@calib_option("Data as in awqc compile: arrays say what the inputs are; none is calibrated on.")
@declared_group("weights")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, calib: Path | None, as_json: bool, **options: Any) -> None:
    """Explain; the help text is above, since it names the sources."""
    from awqc.commands.dry_run import print_plan

    print_plan(model, None, as_json, calib, options)

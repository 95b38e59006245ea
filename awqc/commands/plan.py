"""``awqc plan``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from awqc.commands.declared import CALIB_HELP, SOURCE_HELP, calib_option, declared_group


@click.command(
    "plan",
    help=f"""Say what awqc compile MODEL would need: memory, disk and time; nothing is compiled.

The exit code is 1 where the memory is not enough. Give the data and the options that the compile
is to have: batches of calibration data, effort and formats all count.

{SOURCE_HELP}""",
)
@click.argument("model")
@declared_group("model")
@calib_option(CALIB_HELP)
@declared_group("data", "weights", "accuracy", "output", "machine")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, calib: Path | None, as_json: bool, **options: Any) -> None:
    """Plan; the help text is above, since it names the sources."""
    from awqc.errors import worded
    from awqc.front_door import plan_compile
    from awqc.machine.terminal import console, echo
    from awqc.options.compile_options import on_command_line, parse_options

    plan = plan_compile(model, calib, parse_options(**options))
    if as_json:
        echo(json.dumps(plan.as_dict(on_command_line), indent=2))
    else:
        console().print(worded(plan.told(), on_command_line))
    if not plan.fits:
        click.get_current_context().exit(1)

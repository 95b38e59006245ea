"""``awqc explain``."""

from __future__ import annotations

from typing import Any

import click

from awqc.commands.options import (
    SOURCE_HELP,
    ModelSource,
    model_options,
    quantization_options,
)


@click.command(
    "explain",
    help=f"""Show each site of MODEL: what folds where, what is tied, what is refused and why.

No calibration is needed. A site is a value and the weights that read it; its scales fold when
every operation that makes or reads the value can take them.

{SOURCE_HELP}""",
)
@model_options
@quantization_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(source: ModelSource, quantization: dict[str, Any], as_json: bool) -> None:
    """Explain; the help text is above, since it names the sources."""
    from awqc.commands.plan import print_plan
    from awqc.numerics.request import QuantizationSpec

    print_plan(source.load(), None, as_json, QuantizationSpec(**quantization))

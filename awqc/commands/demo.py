"""``awqc demo``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from awqc.commands.declared import declared


@click.command("demo")
@click.option(
    "--dims",
    default="64,128,256,128,10",
    show_default=True,
    metavar="N,N,…",
    help="Widths of input, hidden layers and output. 64 in and 10 out learn handwritten "
    "digits; other ends learn made-up data.",
)
@click.option(
    "--bits",
    "bits",
    multiple=True,
    type=click.Choice(["2", "3", "4", "8"]),
    default=("4", "8"),
    show_default="4 and 8",
    help="Width of a weight; repeatable.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=0),
    default=30,
    show_default=True,
    help="Passes over the training samples.",
)
@declared("seed", "Of weights, data and their order.")
@declared("provider", "Where onnxruntime runs.")
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(path_type=Path),
    default=Path("awqc-demo"),
    show_default=True,
    metavar="DIR",
    help="Where to write.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    dims: str,
    bits: tuple[Any, ...],
    epochs: int,
    seed: int,
    provider: Any,
    output_dir: Path,
    as_json: bool,
) -> None:
    """See it work: train a small network, quantize it, and look at every step.

    A ReLU network without bias is trained for seconds, then compiled by AWQ and, for
    comparison, by plain rounding to nearest: weights, activations, the search, errors, outputs,
    accuracy and size before and after.
    """
    from awqc.artifacts.publish import staging
    from awqc.demo.show import print_demo, print_next
    from awqc.demo.walk import parse_dims, run_demo
    from awqc.machine.terminal import console, echo

    err = console(stderr=True)
    widths = parse_dims(dims)
    with staging(output_dir) as folder:
        demo = run_demo(
            widths,
            [int(width) for width in dict.fromkeys(bits)],  # type: ignore[misc]  # click's choices are the widths
            epochs=epochs,
            seed=seed,
            provider=provider,
            say=err.print,
        )
        demo.write(folder)
        (folder / "report.json").write_text(json.dumps(demo.report, indent=2) + "\n")
    if as_json:
        echo(json.dumps(demo.report, indent=2))
        return
    out = console()
    print_demo(demo.report, out)
    first = next(iter(demo.compiled))
    print_next(output_dir, first, out)

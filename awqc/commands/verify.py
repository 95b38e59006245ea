"""``awqc verify``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("verify")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
                metavar="DIR")
@click.option("--calib", type=click.Path(path_type=Path), metavar="FILE",
              help="Data to compare on, as in awqc compile; random inputs without it.")
@click.option("--num-samples", type=click.IntRange(min=1), help="Use at most this many samples.")
@click.option("--against", metavar="MODEL",
              help="The original model, as awqc compile took it; without it only the exported "
              "forms are compared.")
@click.option("--trust-pickle", is_flag=True, help="As in awqc compile, for --against.")
@click.option("--provider", type=click.Choice(["auto", "cuda", "cpu"]), default="auto",
              show_default=True, help="Where onnxruntime runs.")
@click.option("--verify-with", default="onnxruntime", show_default=True, metavar="RUNTIMES",
              help="As in awqc compile.")
@click.option("--max-loss", type=click.FloatRange(min=0), metavar="X",
              help="As in awqc compile; needs --against.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of random data.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    folder: Path,
    calib: Path | None,
    num_samples: int | None,
    against: str | None,
    trust_pickle: bool,
    provider: str,
    verify_with: str,
    max_loss: float | None,
    seed: int,
    as_json: bool,
) -> None:
    """Verify the output folder of a compile again, on your data.

    Runs each exported form in each runtime of --verify-with, against model.pt2 in torch and, with
    --against, against the original. Exit code 1 where they disagree.
    """
    from awqc.report.terminal import console, print_verification
    from awqc.verify.reverify import reverify

    verification = reverify(
        folder,
        calib=calib,
        num_samples=num_samples,
        against=against,
        trust_pickle=trust_pickle,
        provider=provider,
        max_loss=max_loss,
        seed=seed,
        verify_with=tuple(filter(None, verify_with.split(","))),
    )
    result = verification.as_dict()
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        print_verification(result, console())

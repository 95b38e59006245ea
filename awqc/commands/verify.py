"""``awqc verify``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from awqc.commands.declared import calib_option, declared

if TYPE_CHECKING:
    from awqc.options import Options


@click.command("verify")
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR"
)
@calib_option("Data to compare on, as in awqc compile; random inputs without it.")
@declared("num_samples")
@click.option(
    "--against",
    metavar="MODEL",
    help="The original model, as awqc compile took it; without it only the exported "
    "forms are compared.",
)
@declared("trust_pickle", "As in awqc compile, for --against.")
@declared("weights", "As in awqc compile, for --against.")
@declared("adapter", "As in awqc compile, for --against.")
@declared("task", "As in awqc compile, for --against.")
@declared("trust_remote_code", "As in awqc compile, for --against.")
@declared("provider", "Where onnxruntime runs.")
@declared("verify_with", "As in awqc compile.")
@declared(
    "max_loss",
    "As in awqc compile, with its default; needs --against.",
    default=None,
    show_default=False,
)
@declared("seed", "Of random data.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    folder: Path,
    calib: Path | None,
    num_samples: int | None,
    against: str | None,
    trust_pickle: bool,
    weights: Path | None,
    adapter: Path | None,
    task: str | None,
    trust_remote_code: bool,
    provider: str,
    verify_with: str,
    max_loss: float | None,
    seed: int,
    as_json: bool,
) -> None:
    """Verify the output folder of a compile again, on your data.

    Runs each exported form in each runtime of --verify-with, against model.pt2 in torch and, with
    --against, against the original. A model of several graphs is verified part by part, and with
    --against as a whole. Exit code 1 where they disagree.
    """
    from awqc.data.text_batches import FEWEST_SAMPLES
    from awqc.machine.terminal import console, echo
    from awqc.options.compile_options import Options, parse_options
    from awqc.report.printed import print_verification
    from awqc.runtimes.session_file import of_several_graphs
    from awqc.verify.reverify import reverify

    if max_loss is not None:
        max_loss = parse_options(max_loss=max_loss).max_loss
    elif against is not None:
        max_loss = Options().max_loss
    if of_several_graphs(folder):
        print_several(
            folder,
            calib,
            against,
            parse_options(
                num_samples=num_samples or FEWEST_SAMPLES,
                weights=weights,
                adapter=adapter,
                task=task,
                trust_remote_code=trust_remote_code,
                provider=provider,
                verify_with=verify_with,
                seed=seed,
            ),
            max_loss,
            as_json,
        )
        return
    verification = reverify(
        folder,
        calib=calib,
        num_samples=num_samples,
        against=against,
        trust_pickle=trust_pickle,
        weights=weights,
        adapter=adapter,
        task=task,
        trust_remote_code=trust_remote_code,
        provider=provider,
        max_loss=max_loss,
        seed=seed,
        verify_with=tuple(filter(None, verify_with.split(","))),
    )
    result = verification.as_dict()
    if as_json:
        echo(json.dumps(result, indent=2))
    else:
        print_verification(result, console())


def print_several(
    folder: Path,
    calib: Path | None,
    against: str | None,
    options: Options,
    max_loss: float | None,
    as_json: bool,
) -> None:
    """Verify and print a model of several graphs: each part, and the whole."""
    from awqc.errors import worded
    from awqc.machine.terminal import console, echo, labelled
    from awqc.options.compile_options import on_command_line
    from awqc.report.printed import print_verification
    from awqc.report.printed_whole import print_answers, print_parts
    from awqc.whole.reverified import reverify_whole

    found = reverify_whole(folder, calib=calib, against=against, options=options, max_loss=max_loss)
    found["notes"] = [worded(note, on_command_line) for note in found["notes"]]
    if as_json:
        echo(json.dumps(found, indent=2))
        return
    out = console()
    print_parts(found["parts"], print_verification, out)
    out.rule("the whole")
    for note in found["notes"]:
        out.print(labelled("note", "bold yellow", note))
    print_answers(found, out)

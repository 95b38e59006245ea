"""``awqc compile``: parses, calls `awqc.compile`, and prints what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from awqc.commands.declared import (
    CALIB_HELP,
    SOURCE_HELP,
    calib_option,
    declared_group,
)

if TYPE_CHECKING:
    from awqc.partial import PartialCompiled


@click.command(
    "compile",
    help=f"""Quantize the weights of MODEL, export it, and verify the result against it.

{SOURCE_HELP}

Writes a folder with model.onnx (QDQ form, for onnxruntime), model.pt2 (for plain torch),
report.json, recipe.json and scales.safetensors. Nothing is written, and the exit code is 1,
when the exported model does not compute what the quantized one does, or when the loss passes
--max-loss.

A compile of a large model that was ended goes on when the same command is given again: what is
finished is kept in a hidden folder beside DIR until the result is there (--work-dir, --fresh).

\b
Examples:
  awqc compile model.pt2 --calib data.npz
  awqc compile model.pt --bits 8 --input "x=float32[batch,64]" -o out
  awqc compile my_package.models:make --group-size 32 --exclude 'head'
  awqc compile model.pt2 --recipe model-awq/recipe.json -o again
  awqc compile ./SmolLM2-135M --calib text.md --group-size 64
  torchrun --nproc-per-node 2 -m awqc compile ./SmolLM2-135M --calib text.md""",
)
@click.argument("model")
@declared_group("model")
@calib_option(CALIB_HELP)
@declared_group("data", "weights", "accuracy", "output", "machine")
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to write; an earlier result there is replaced while all of it is as "
    "awqc wrote it, and none of it is read.  [default: MODEL's stem + -awq, beside it]",
)
@click.option(
    "--partial",
    is_flag=True,
    help="Where the whole model cannot be captured, compile those of its submodules "
    "that can; the rest stays torch.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--print-after", metavar="PASS|all", help="Print the graph after a pass, on stderr.")
@click.option("--print-changed", is_flag=True, help="Print what each pass changed, on stderr.")
@click.option(
    "--dump-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the graph after each pass into DIR.",
)
def command(
    model: str,
    calib: Path | None,
    output_dir: Path | None,
    partial: bool,
    dry_run: bool,
    as_json: bool,
    print_after: str | None,
    print_changed: bool,
    dump_dir: Path | None,
    **options: Any,
) -> None:
    """Compile; the help text is above, since it names the sources."""

    from awqc.artifacts.growing import GrowingFolder
    from awqc.artifacts.target import prepare_folder
    from awqc.commands.watch import Watch
    from awqc.errors import CaptureError, Note, UsageError, worded
    from awqc.front_door import compile
    from awqc.machine.launched import rank_here, ranks_here
    from awqc.machine.ranks import all_ranks
    from awqc.machine.terminal import console, echo, labelled
    from awqc.options.compile_options import on_command_line, parse_options
    from awqc.report.printed import print_report
    from awqc.stages.asked import prepare, used_files
    from awqc.whole.compiling import CompiledBundle

    err = console(stderr=True)
    target = output_dir or default_output(model)
    speaks = rank_here() == 0
    if ranks_here() > 1 and (partial or dry_run or print_after or print_changed or dump_dir):
        raise UsageError(
            "--partial, --dry-run, --print-after, --print-changed and --dump-dir are for one "
            "process; start awqc without torchrun"
        )
    if speaks:
        err.print(f"capturing {model}")
    if dry_run:
        from awqc.commands.dry_run import print_plan

        print_plan(model, target, as_json, calib, options)
        return
    chosen = parse_options(**options)
    pipeline, _ = prepare(chosen)
    used = used_files(model, calib, pipeline, chosen)
    if speaks:
        prepare_folder(target, (*used, *filter(None, [dump_dir])))
    dumps = None if dump_dir is None else GrowingFolder(dump_dir, (*used, target), "--dump-dir")
    watch = Watch(err, print_after, print_changed, dumps)

    def say(note: Note) -> None:
        if not speaks:
            return
        label = "warning" if note.warning else "note"
        err.print(labelled(label, "bold yellow", worded(note.text, on_command_line)))

    try:
        with all_ranks() as ranks:
            compiled = compile(
                model,
                calib=calib,
                output_dir=target,
                observe=watch.observe,
                notify=say,
                ranks=ranks,
                **options,
            )
    except CaptureError as error:
        if not partial:
            raise
        from awqc.partial import compile_partial

        reason = worded(error.text, on_command_line)
        err.print(f"{reason}\ncompiling the submodules that can be captured")
        parts = compile_partial(model, calib=calib, output_dir=target, **options)
        print_parts(parts, target, as_json)
        return
    if not speaks:
        return
    if isinstance(compiled, CompiledBundle):
        print_whole(compiled.report, target, as_json)
        return
    if not compiled.report["layers"]:
        say(Note("nothing is quantized: no weight is left to quantize", warning=True))
    if as_json:
        echo(json.dumps(compiled.report, indent=2, allow_nan=False))
        return
    out = console()
    print_report(compiled.report, out)
    out.print(f"wrote {target}")


def print_whole(report: dict[str, Any], target: Path, as_json: bool) -> None:
    """Print what became of each part of a model, and of the whole."""
    from awqc.machine.terminal import console, echo
    from awqc.report.printed import print_report
    from awqc.report.printed_whole import print_parts
    from awqc.report.printed_whole import print_whole as print_together

    if as_json:
        echo(json.dumps(report, indent=2, allow_nan=False))
        return
    out = console()
    print_parts(report["parts"], print_report, out)
    out.rule("the whole")
    print_together(report, out)
    out.print(f"wrote {target}")


def print_parts(result: PartialCompiled, target: Path, as_json: bool) -> None:
    """Print which submodules were compiled, and why others were not."""
    from awqc.machine.terminal import console, echo

    if as_json:
        echo(json.dumps(result.report, indent=2, allow_nan=False))
        return
    out = console()
    for path, compiled in result.blocks.items():
        out.print(f"compiled {path}: {len(compiled.report['layers'])} weights")
    for path, reason in result.refused.items():
        out.print(f"left in float: {path}: {reason}")
    out.print(f"wrote {target}: model.pt with the compiled blocks in place, and each as ONNX")


def default_output(model: str) -> Path:
    """The folder that a compile of MODEL writes to where none is given."""
    from awqc.sources.factory import Factory

    path = Path(model)
    if (factory := Factory.named(model)) is not None:
        return Path(f"{factory.name}-awq")
    stem = path.resolve().name if path.is_dir() else path.stem
    return path.resolve().parent / f"{stem}-awq"

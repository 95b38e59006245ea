"""``awqc compile``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from awqc.commands.options import (
    SOURCE_HELP,
    ModelSource,
    calibration_options,
    load_data,
    model_options,
    quantization_options,
)
from awqc.runtimes.base import runtime_names

if TYPE_CHECKING:
    from awqc.program import Program


@click.command(
    "compile",
    help=f"""Quantize the weights of MODEL, export it, and verify the result against it.

{SOURCE_HELP}

Writes a folder with model.onnx (QDQ form, for onnxruntime), model.pt2 (for plain torch),
report.json, recipe.json and scales.safetensors. Nothing is written, and the exit code is 1,
when the exported model does not compute what the quantized one does, or when the loss passes
--max-loss.

\b
Examples:
  awqc compile model.pt2 --calib data.npz
  awqc compile model.pt --bits 8 --input "x=float32[batch,64]" -o out
  awqc compile my_package.models:make --group-size 32 --exclude 'head'
  awqc compile model.pt2 --recipe model-awq/recipe.json""",
)
@model_options
@quantization_options
@calibration_options
@click.option("--effort", type=click.Choice(["fast", "default", "best"]), default="default",
              show_default=True,
              help="Work spent on accuracy: fast scales and rounds to nearest; default also "
              "compensates rounding errors and tunes scales on the model's outputs; best tunes "
              "them on all of the calibration data.")
@click.option("--rounding", type=click.Choice(["auto", "nearest", "gptq"]), default="auto",
              show_default=True, help="How codes are chosen; auto: as the effort says.")
@click.option("--sequential", is_flag=True,
              help="Round each weight on what the quantized part before it gives; takes one more "
              "pass over the calibration data, held in memory at once.")
@click.option("--avg-bits", type=click.FloatRange(min=0, min_open=True), metavar="X",
              help="Give each weight --bits or more, so that X bits a weight, scales and zero "
              "points counted, lose least.")
@click.option("--budget", metavar="SIZE",
              help="The same, so that all tensors together take at most SIZE, as 90MB.")
@click.option("--stats", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Keep what calibration learns in FILE; where FILE exists, take it from there "
              "and run no calibration, whatever bits and groups are asked for.")
@click.option("--pipeline", metavar="SPEC",
              help="Passes to run with the options that it gives them, in place of --effort; see "
              "awqc passes.")
@click.option("--runtime-scales", type=click.Choice(["auto", "never", "always"]), default="auto",
              show_default=True,
              help="Multiply by scales when the model runs, where they cannot be folded: if it "
              "pays, never, or whenever the loss falls.")
@click.option("--runtime-numerics", type=click.Choice(["fp", "ort-default"]), default="fp",
              show_default=True,
              help="Arithmetic that scales are searched for: ort-default counts the int8 "
              "activations of onnxruntime's default sessions.")
@click.option("--formats", default="onnx,pt2", show_default=True,
              help="What to write, of onnx, ort, pt2, awq, compressed-tensors.")
@click.option("--dtype", type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
              default="auto", show_default=True,
              help="What the exported model computes in; auto: as the model came.")
@click.option("--accuracy-level", type=click.Choice(["auto", "0", "1", "2", "3", "4"]),
              default="auto", show_default=True,
              help="How onnxruntime multiplies: 4 rounds activations to int8, 1 computes in "
              "float32; auto: 4 unless that loses too much.")
@click.option("--device", default="cpu", show_default=True,
              help="Where calibration runs the model: cpu, cuda or cuda:N.")
@click.option("--provider", type=click.Choice(["auto", "cuda", "cpu"]), default="auto",
              show_default=True, help="Where onnxruntime verifies.")
@click.option("--verify-with", default="onnxruntime", show_default=True, metavar="RUNTIMES",
              help=f"What runs the exported forms to verify them, of {', '.join(runtime_names())}; "
              "several with commas.")
@click.option("--max-loss", type=click.FloatRange(min=0), metavar="X",
              help="Fail if the outputs differ from the original's by more than this, as "
              "|quantized - original| / |original|.")
@click.option("--recipe", type=click.Path(path_type=Path), metavar="FILE",
              help="Repeat the decisions of an earlier compile; no calibration is run.")
@click.option("-o", "--output-dir", type=click.Path(path_type=Path), metavar="DIR",
              help="Where to write.  [default: MODEL's stem + -awq, beside it]")
@click.option("--partial", is_flag=True,
              help="Where the whole model cannot be captured, compile those of its submodules "
              "that can; the rest stays torch.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--print-after", metavar="PASS|all", help="Print the graph after a pass, on stderr.")
@click.option("--print-changed", is_flag=True, help="Print what each pass changed, on stderr.")
@click.option("--dump-dir", type=click.Path(path_type=Path), metavar="DIR",
              help="Write the graph after each pass into DIR.")
def command(
    source: ModelSource,
    quantization: dict[str, Any],
    calib: Path | None,
    num_samples: int | None,
    seq_len: int | None,
    seed: int,
    output_dir: Path | None,
    partial: bool,
    dry_run: bool,
    as_json: bool,
    print_after: str | None,
    print_changed: bool,
    dump_dir: Path | None,
    formats: str,
    **options: Any,
) -> None:
    """Compile; the help text is above, since it names the sources."""
    from rich.markup import escape

    from awqc.artifacts.publish import check_replaceable
    from awqc.commands.partial import compile_parts
    from awqc.commands.watch import Watch
    from awqc.compiler import compile
    from awqc.errors import CaptureError
    from awqc.machine.progress import stage
    from awqc.options import parse_options
    from awqc.report.terminal import console, print_report

    err = console(stderr=True)
    target = output_dir or default_output(source.model)
    chosen = {
        **quantization,
        "seed": seed,
        "formats": tuple(filter(None, formats.split(","))),
        **options,
    }
    parse_options(**chosen)
    check_replaceable(target)
    watch = Watch(err, print_after, print_changed, dump_dir)
    err.print(f"capturing {source.model}")
    try:
        with stage("capture …"):
            program = source.load(calib, seed)
    except CaptureError as error:
        if not partial:
            raise
        err.print(f"{error}\ncompiling the submodules that can be captured", markup=False)
        compile_parts(source, target, calib, as_json=as_json, **chosen)
        return
    if dry_run:
        from awqc.commands.plan import print_plan
        from awqc.numerics.request import QuantizationSpec

        print_plan(program, target, as_json, QuantizationSpec(**quantization))
        return
    data = load_data(program, source.model, calib, num_samples, seq_len, seed)
    for note in program.notes:
        err.print(f"[bold yellow]warning:[/] {escape(note)}")
    for note in data.notes:
        err.print(f"[bold yellow]{'warning' if data.synthetic else 'note'}:[/] {escape(note)}")
    compiled = compile(
        program, calib=data, observe=watch.observe, beside=companions(source.model), **chosen
    )
    if not compiled.report["layers"]:
        err.print("[bold yellow]warning:[/] nothing is quantized: no weight is left to quantize")
    compiled.save(target)
    if as_json:
        click.echo(json.dumps(compiled.report, indent=2, allow_nan=False))
        return
    out = console()
    print_report(compiled.report, out)
    out.print(f"wrote {target}")


def companions(model: str) -> Callable[[Program, Path], object] | None:
    """What puts the files of a Hugging Face model that runners need beside the artifacts."""
    path = Path(model)
    if not path.is_dir() and path.suffix != ".gguf":
        return None
    from awqc.huggingface.folder import HFFolder
    from awqc.huggingface.runner_files import write_runner_files
    from awqc.runtimes.session_file import TUNED

    folder = HFFolder.at(path)

    def write(program: Program, target: Path) -> None:
        """Into each folder that runs as it is."""
        for place in (target, target / TUNED):
            if place.is_dir():
                write_runner_files(program, folder, place)

    return write


def default_output(model: str) -> Path:
    """The folder that a compile of MODEL writes to where none is given."""
    path = Path(model)
    if not path.exists() and ":" in model:
        return Path(f"{model.partition(':')[0].rpartition('.')[2]}-awq")
    stem = path.resolve().name if path.is_dir() else path.stem
    return path.resolve().parent / f"{stem}-awq"

"""``awqc bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from awqc.commands.declared import declared


@click.command("bench")
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR"
)
@click.option(
    "--against",
    metavar="MODEL",
    help="The original, as awqc compile took it: it is measured as float ONNX and in "
    "PyTorch; without it only the compiled forms are.",
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Rows of each input."
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Size of other axes that vary; of the prompt, where text is generated.",
)
@click.option(
    "--new-tokens",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Tokens to generate in a turn.",
)
@click.option(
    "--turns",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How often each form has its turn.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of each form; 0: as many as there are processors.",
)
@declared("provider", "Where onnxruntime runs.")
@declared("trust_pickle", "As in awqc compile, for --against.")
@declared("weights", "As in awqc compile, for --against.")
@declared("adapter", "As in awqc compile, for --against.")
@declared("task", "As in awqc compile, for --against.")
@declared("trust_remote_code", "As in awqc compile, for --against.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    folder: Path,
    against: str | None,
    batch: int,
    tokens: int,
    new_tokens: int,
    turns: int,
    threads: int,
    provider: str,
    trust_pickle: bool,
    weights: Path | None,
    adapter: Path | None,
    task: str | None,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """Speed and memory of a compiled model, beside its original.

    Each form runs in a process of its own, and they take turns; what is printed are medians.
    Models with a cache generate tokens, others run on random inputs. Of a model of several graphs
    each file is measured, beside it as float ONNX, and what generates as a whole.
    """
    from awqc.bench.bench import bench
    from awqc.bench.printing import print_bench
    from awqc.bench.workload import Workload
    from awqc.machine.terminal import console, echo
    from awqc.options import parse_options
    from awqc.runtimes.session_file import of_several_graphs
    from awqc.whole.benchmarked import bench_whole
    from awqc.whole.plans import FEW

    load = Workload(batch, tokens, new_tokens)
    if of_several_graphs(folder):
        chosen = parse_options(
            provider=provider,
            weights=weights,
            adapter=adapter,
            task=task,
            trust_remote_code=trust_remote_code,
            num_samples=FEW,
        )
        found = bench_whole(
            folder, against=against, options=chosen, workload=load, turns=turns, threads=threads
        )
        print_several(found, as_json)
        return
    result = bench(
        folder,
        against=against,
        workload=load,
        turns=turns,
        threads=threads,
        provider=provider,  # type: ignore[arg-type]  # click's choices are the providers
        trust_pickle=trust_pickle,
        weights=weights,
        adapter=adapter,
        task=task,
        trust_remote_code=trust_remote_code,
    )
    if as_json:
        echo(json.dumps(result, indent=2))
    else:
        print_bench(result, console())


def print_several(found: dict[str, Any], as_json: bool) -> None:
    """Print what each part takes, and the whole."""
    from awqc.bench.printing import print_bench
    from awqc.machine.terminal import console, echo
    from awqc.report.printed_whole import print_parts

    if as_json:
        echo(json.dumps(found, indent=2))
        return
    out = console()
    print_parts(found["parts"], print_bench, out)
    if "whole" in found:
        out.rule("the whole")
        print_bench(found["whole"], out)

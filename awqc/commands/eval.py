"""``awqc eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from awqc.commands.declared import declared


@click.command("eval")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL_OR_DIR")
@click.option(
    "--text",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Text to measure on, .txt, .md or .jsonl; not what was calibrated on.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="The original's folder, for KL divergence and top-1 agreement.",
)
@declared("num_samples", "Sequences.  [default: 32]")
@declared("seq_len", "Tokens a sequence.  [default: 512]")
@declared("provider", "Where onnxruntime runs.")
@declared("trust_remote_code", "As in awqc compile.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: Path, text: Path, as_json: bool, **options: Any) -> None:
    """Perplexity of a causal language model on a text.

    MODEL_OR_DIR is a Hugging Face folder, or the output folder of awqc compile, of which the
    graph module and the ONNX model at the exact and the default level are measured.
    """
    from awqc.machine.terminal import console, echo
    from awqc.report.printed import print_quality
    from awqc.verify.evaluate import evaluate

    result = evaluate(model, text, **options)
    if as_json:
        echo(json.dumps(result, indent=2))
        return
    out = console()
    out.print(f"{result['sequences']} sequences of {result['seq_len']} tokens of {result['text']}")
    for name, score in result["models"].items():
        print_quality(name, score, out)

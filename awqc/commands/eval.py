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
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Text to measure on, .txt, .md or .jsonl; not what was calibrated on.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="What other models read, as for --calib: images, audio, text, .jsonl, a table. A label, a "
    "target, or a text beside audio says what is right.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="The original's folder, for how far the compiled one is from it.",
)
@declared("task", "Task of the model, where it is not recognised.")
@declared("num_samples", "Sequences or samples.  [default: 32 sequences, 64 samples]")
@declared("seq_len", "Tokens a sequence.  [default: 512]")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    help="Of a text that is written for a sample.  [default: 64]",
)
@declared("provider", "Where onnxruntime runs.")
@declared("trust_remote_code", "As in awqc compile.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: Path,
    text: Path | None,
    data: Path | None,
    as_json: bool,
    task: str | None,
    seq_len: int | None,
    max_new_tokens: int | None,
    provider: str,
    **options: Any,
) -> None:
    """How good a compiled model is, in the measure of its task.

    A causal language model: perplexity on a text (--text), and with --against KL divergence and
    top-1 agreement. MODEL_OR_DIR is a Hugging Face folder, or the output folder of awqc compile, of
    which the graph module and the ONNX model at the exact and the default level are measured.

    Other compiled Hugging Face models, on --data: word error rate of what they transcribe,
    translate or caption; accuracy where the data has labels; with --against how many texts are the
    same, how often the likeliest class is, the overlap of masks, the cosine of embeddings, and
    cosine and PSNR of every output.

    \b
    Examples:
      awqc eval smol --text held-out.txt --against ./SmolLM2-135M
      awqc eval whisper --data speech.jsonl --against ./whisper-base
      awqc eval vit --data other-photos/ --against ./vit-base-patch16-224
    """
    from awqc.errors import UsageError
    from awqc.machine.terminal import console, echo
    from awqc.report.printed import print_measured, print_quality
    from awqc.running.evaluated import evaluate_task, writes_on
    from awqc.runtimes.onnxruntime import resolve_provider
    from awqc.verify.evaluate import evaluate

    given = text or data
    if given is None or (text is not None and data is not None):
        raise UsageError(f"{model}: give --text for a causal language model, or --data for others")
    if writes_on(model, task):
        result = evaluate(model, given, provider=provider, seq_len=seq_len, **options)  # type: ignore[arg-type]  # click's choices are the providers
    else:
        result = evaluate_task(
            model,
            given,
            task=task,
            provider=resolve_provider(provider),
            max_new_tokens=max_new_tokens,
            **options,
        )
    if as_json:
        echo(json.dumps(result, indent=2))
        return
    out = console()
    if "sequences" not in result:
        print_measured(result, out)
        return
    out.print(f"{result['sequences']} sequences of {result['seq_len']} tokens of {result['text']}")
    for name, score in result["models"].items():
        print_quality(name, score, out)

"""``awqc generate``; neither torch nor transformers is imported."""

from __future__ import annotations

from pathlib import Path

import click

from awqc.commands.declared import declared


@click.command("generate")
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR"
)
@click.argument("prompt")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Where to stop at the latest.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="0 takes the likeliest token; above 0, tokens are drawn.",
)
@declared("seed", "Of the draws.")
@click.option(
    "--accuracy-level",
    type=click.Choice(["0", "1", "2", "3", "4"]),
    help="Of low-bit products: 1 computes in float32.  [default: onnxruntime's, 4]",
)
def command(
    folder: Path,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    accuracy_level: str | None,
) -> None:
    """Continue PROMPT with a compiled causal language model.

    The text goes to stdout as it comes, its speed to stderr.
    """
    from awqc.machine.terminal import echo
    from awqc.runtimes.generate import TextGenerator

    generator = TextGenerator(folder, level=accuracy_level)
    pieces = generator.stream(
        prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
    )
    for piece in pieces:
        echo(piece, nl=False)
    echo()
    echo(str(generator.speed), err=True)

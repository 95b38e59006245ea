"""``awqc generate``; neither torch nor transformers is imported."""

from __future__ import annotations

from pathlib import Path

import click

from awqc.commands.declared import generating


@click.command("generate")
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR"
)
@click.argument("prompt")
@generating(128)
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

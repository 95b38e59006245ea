"""``awqc chat``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from awqc.commands.declared import declared, generating

NEW = "/new"
PROMPT = "> "


@click.command("chat")
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR"
)
@click.option("--system", help="What is said to the model before all else.")
@generating(512)
@declared("provider", "Where onnxruntime runs.")
def command(
    folder: Path,
    system: str | None,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    provider: str,
    accuracy_level: str | None,
) -> None:
    """Talk with a compiled causal language model, in its own chat template.

    Each line of standard input is a message, to which the answer comes as it is made; what was said
    before is part of the conversation. A line with /new begins another one; the end of the input
    (Ctrl-D) ends. Answers go to stdout, their speed to stderr.

    \b
    Examples:
      awqc chat smol --system "Answer in one sentence."
      echo "What is the capital of France?" | awqc chat smol
    """
    from awqc.machine.terminal import echo
    from awqc.running.conversation import Conversation
    from awqc.runtimes.onnxruntime import resolve_provider

    talk = Conversation(
        folder, system=system, provider=resolve_provider(provider), level=accuracy_level
    )
    for line in _messages():
        if line == NEW:
            talk.begin_anew()
            continue
        pieces = talk.say(line, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        for piece in pieces:
            echo(piece, nl=False)
        echo()
        echo(str(talk.speed), err=True)


def _messages() -> Iterator[str]:
    """Lines that are not empty; a terminal is asked for each."""
    asks = sys.stdin.isatty()
    while True:
        if asks:
            click.echo(PROMPT, nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            break
        if line.strip():
            yield line.strip()
    if asks:
        click.echo(err=True)

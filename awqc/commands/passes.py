"""``awqc passes``."""

from __future__ import annotations

import inspect

import click


@click.command("passes")
def command() -> None:
    """List the passes, their options and defaults.

    \b
    A pipeline is written as
      canonicalize,insert-observers,calibrate,search-scales{grid=10},fold-scales,quantize-weights
    and given to awqc compile --pipeline.
    """
    from awqc.machine.terminal import echo
    from awqc.passes.pipeline import DEFAULT, PASSES
    from awqc.passes.spelling import options_of

    for name, cls in PASSES.items():
        echo(name)
        text = inspect.cleandoc(cls.__doc__ or "")
        for line in text.splitlines():
            echo(f"    {line}".rstrip())
        for option, declared in options_of(cls).items():
            echo(f"    {option}={declared.default}")
        echo()
    echo(f"default pipeline:\n    {DEFAULT}")

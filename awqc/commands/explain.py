"""``awqc explain``."""

from __future__ import annotations

import click

from awqc.commands.options import SOURCE_HELP, load_model, model_options, quantization_options


@click.command(
    "explain",
    help=f"""Show each site of MODEL: what folds where, what is tied, what is refused and why.

No calibration is needed. A site is a value and the weights that read it; its scales fold when
every operation that makes or reads the value can take them.

{SOURCE_HELP}""",
)
@model_options
@quantization_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: str,
    inputs: tuple[str, ...],
    dynamic: tuple[str, ...],
    trust_pickle: bool,
    task: str | None,
    trust_remote_code: bool,
    bits: str,
    head_bits: str,
    embed_bits: str,
    group_size: str,
    symmetric: bool,
    exclude: tuple[str, ...],
    as_json: bool,
) -> None:
    """Explain; the help text is above, since it names the sources."""
    from awqc.commands.options import parse_bits, parse_group_size
    from awqc.commands.plan import print_plan

    program = load_model(
        model,
        inputs=inputs,
        dynamic=dynamic,
        trust_pickle=trust_pickle,
        task=task,
        trust_remote_code=trust_remote_code,
    )
    print_plan(
        program,
        None,
        as_json,
        bits=int(bits),
        head_bits=parse_bits(head_bits),
        embed_bits=parse_bits(embed_bits),
        group_size=parse_group_size(group_size),
        symmetric=symmetric,
        exclude=exclude,
    )

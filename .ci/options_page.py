"""Print docs/options.md, made of the declarations: python .ci/options_page.py > docs/options.md"""

from __future__ import annotations

import click

from awqc.cli import COMMANDS, cli
from awqc.errors import worded
from awqc.options.compile_options import DECLARED, GROUPS
from awqc.options.declare import Declaration

HEAD = """\
# Options

Made by `python .ci/options_page.py > docs/options.md` from the fields of
`awqc.options.Options`; change them there.

`awqc.compile` takes each option as a keyword, `awqc compile` as a flag. An option whose default
is empty is off. Choices and numbers may be given as text, from Python too. What is no option
(`model`, `example_inputs`, `calib`, `output_dir`, `observe`, `notify`) is in `help(awqc.compile)`.
"""


def values(one: Declaration) -> str:
    """What may be given, in short."""
    words = [f"`{word}`" for word in one.words]
    if one.choices:
        listed = ", ".join([f"`{choice}`" for choice in one.choices] + words)
        return f"some of {listed}" if one.many else listed
    kinds = {int: "whole number", float: "number", bool: "True or False; the flag alone"}
    text = kinds.get(one.kind, (one.metavar and f"`{one.metavar}`") or "text")
    if one.least is not None:
        text += f" {'above' if one.above else 'from'} {one.least:g}"
    text = "".join([text, *(f", or {word}" for word in words)])
    if one.read:
        return f"dict by input name; the flag repeated, as {text}"
    return f"list of {text}; the flag repeated" if one.many else text


def default(one: Declaration) -> str:
    """The default as Python writes it, empty where there is none."""
    return "" if one.default in (None, (), False) else f"`{one.default!r}`"


def row(*cells: str) -> str:
    """A row of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table."""
    return "\n".join([row(*head), row(*["---"] * len(head)), *(row(*cells) for cells in rows)])


def declared(group: str) -> str:
    """The options of a group."""
    rows = [
        (f"`{one.name}`", f"`{one.flags}`", values(one), default(one), worded(one.help))
        for one in DECLARED.values()
        if one.group == group
    ]
    return table(("Python", "command line", "values", "default", "what it does"), rows)


def others(name: str) -> str:
    """The flags of a command that are declared in its own file."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    taken = "compile" if name != "compile" else None
    rows = []
    for option in command.params:
        known = DECLARED.get(str(option.name))
        if isinstance(option, click.Option) and (known is None or taken):
            rows.append((", ".join(f"`{flag}`" for flag in option.opts), option.help or ""))
    return table(("flag", "what it does"), rows) if rows else ""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for group, title in GROUPS.items():
        parts.append(f"## {title}\n\n{declared(group)}\n")
    parts.append(f"## Only on the command line, and files\n\n{others('compile')}\n")
    parts.append("## Other commands\n")
    for name in COMMANDS:
        shown = others(name) if name not in ("compile", "explain") else ""
        if shown:
            parts.append(f"### awqc {name}\n\n{shown}\n")
    parts.append(
        "`awqc explain` takes `--calib`, `--json` and the options of "
        f"“{GROUPS['model']}” and “{GROUPS['weights']}”.\n"
    )
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")

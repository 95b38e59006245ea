"""The options of `awqc.options` as options of click."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from awqc.errors import worded
from awqc.options.compile_options import DECLARED, on_command_line
from awqc.options.declare import Declaration

F = TypeVar("F", bound=Callable[..., Any])

SOURCE_HELP = """MODEL is a torch.export archive (.pt2), a pickled nn.Module (.pt, .pth), a
Hugging Face folder or GGUF file, or package.module:factory or path/to/file.py:factory, a function
or class that makes the module (or the pair module, example inputs; or module, example inputs and
what makes an input of an image)."""


def declared(name: str, help: str | None = None, **more: Any) -> Callable[[F], F]:
    """The declared option ``name``; ``help`` and ``more`` say what is other in this command."""
    one = DECLARED[name]
    text = help or worded(one.help, on_command_line)
    if one.many == "repeated" and help is None:
        text = f"{text.removesuffix('.')}; repeatable."
    if one.many == "commas":
        text = f"{text.removesuffix('.')}: {', '.join(one.choices)}, with commas between."
    return click.option(one.flags, name, help=text, **{**_parameter(one), **more})


def declared_group(*groups: str) -> Callable[[F], F]:
    """All options of these groups, in their order."""

    def adding(function: F) -> F:
        for one in reversed([each for each in DECLARED.values() if each.group in groups]):
            function = declared(one.name)(function)
        return function

    return adding


def calib_option(help: str) -> Callable[[F], F]:
    """``--calib``: the same files for every command."""
    return click.option("--calib", type=click.Path(path_type=Path), metavar="PATH", help=help)


def generating(most: int) -> Callable[[F], F]:
    """The options of a text that is generated, of at most so many tokens by default."""
    options = (
        click.option(
            "--max-new-tokens",
            type=click.IntRange(min=1),
            default=most,
            show_default=True,
            help="Where to stop at the latest.",
        ),
        click.option(
            "--temperature",
            type=click.FloatRange(min=0),
            default=0.0,
            show_default=True,
            help="0 takes the likeliest token; above 0, tokens are drawn.",
        ),
        declared("seed", "Of the draws."),
        click.option(
            "--accuracy-level",
            type=click.Choice(["0", "1", "2", "3", "4"]),
            help="Of low-bit products: 1 computes in float32.  [default: onnxruntime's, 4]",
        ),
    )

    def adding(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return adding


CALIB_HELP = (
    "Calibration data: .npz, .safetensors or .pt with an array for each input (first axis = "
    "samples); .txt, .md or .jsonl for language models; a folder, file or pattern of images or "
    "audio, or .jsonl with image, audio and text, for models that read such; parquet or Arrow with "
    "the same columns in place of .jsonl. Without it, data is "
    "made up, and the result is as good as that."
)


def _parameter(one: Declaration) -> dict[str, Any]:
    """How click reads the option; what it cannot check, `parse_options` does."""
    if one.kind is bool:
        return {"is_flag": True}
    if one.many == "repeated":
        return {"multiple": True, "metavar": one.metavar, "callback": _reading(one.read)}
    default = ",".join(one.default) if one.many else one.default
    return {
        "type": _type(one),
        "metavar": one.metavar,
        "default": None if default is None else str(default),
        "show_default": default is not None,
    }


def _reading(read: Callable[[tuple[str, ...]], Any] | None) -> Callable[..., Any] | None:
    """A callback for click that makes one value of a flag's texts; None where there are none."""
    if read is None:
        return None
    return lambda context, parameter, items: read(items) if items else None


def _type(one: Declaration) -> Any:
    if one.many:
        return str
    if one.choices:
        listed = [str(choice) for choice in one.choices] + list(one.words)
        return click.Choice(listed)
    if one.words:
        return str
    if one.kind is int:
        return click.INT if one.least is None else click.IntRange(min=int(one.least))
    if one.kind is float:
        return click.FloatRange(min=one.least, min_open=one.above)
    return click.Path(path_type=Path) if one.kind is Path else str

"""Options as they are declared: each bad value is refused, and each table has one home."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from awqc.cli import cli
from awqc.errors import UsageError, worded
from awqc.export.formats import FORMATS
from awqc.export.layouts import LAYOUTS
from awqc.export.ort_levels import LEVELS
from awqc.numerics.formats.int_grid import BITS
from awqc.numerics.request import ROUNDINGS, TABLE_BITS, QuantizationSpec
from awqc.options import Options, parse_options
from awqc.options.chosen_passes import build_pipeline
from awqc.options.compile_options import DECLARED, GROUPS, on_command_line
from awqc.options.effort import EFFORTS
from awqc.options.effort import ROUNDINGS as EFFORT_ROUNDINGS
from awqc.options.values import read_axes
from awqc.passes.convert_dtype import DTYPES
from awqc.passes.search_scales import NUMERICS, RUNTIME_CHOICES
from awqc.runtimes.base import runtime_names
from awqc.runtimes.onnxruntime import PROVIDERS
from awqc.targets.known import AUTO, TARGETS

ROOT = Path(__file__).parents[2]
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "choice": ({"bits": 5}, "bits=5: choose one of 2, 3, 4, 8", "--bits 5: choose"),
    "word": ({"effort": "much"}, "effort='much': choose one of fast", "--effort much: choose"),
    "range": ({"num_samples": 0}, "num_samples=0: give 1 or more", "--num-samples 0: give 1"),
    "open range": ({"avg_bits": 0.0}, "avg_bits=0.0: give more than 0", "--avg-bits 0.0: give"),
    "no number": ({"max_loss": float("nan")}, "max_loss=nan: give 0 or more", "--max-loss nan"),
    "special": ({"group_size": -2}, "group_size=-2: give 1 or more, or auto, or -1",
                "--group-size -2: give"),
    "number": ({"max_loss": "low"}, "max_loss='low': a number is needed", "--max-loss low: a"),
    "whole number": ({"seed": 1.5}, "seed=1.5: a whole number is needed", "--seed 1.5: a whole"),
    "flag as number": ({"seed": True}, "seed=True: a whole number is needed", "--seed: a whole"),
    "flag": ({"symmetric": 1}, "symmetric=1: True or False is needed", "--symmetric 1: True"),
    "path": ({"recipe": 7}, "recipe=7: a path is needed", "--recipe 7: a path"),
    "text": ({"task": 7}, "task=7: text is needed", "--task 7: text"),
    "list": ({"exclude": 7}, "exclude=7: a list is needed", "--exclude 7: a list"),
    "item": ({"formats": "onnx,tflite"}, "formats='tflite': choose one of onnx, ort, pt2",
             "--formats tflite: choose"),
    "no item": ({"formats": ()}, "formats is empty; choose from onnx", "--formats is empty"),
    "pattern": ({"exclude": ["("]}, "exclude='(' is no regular expression",
                "--exclude '(' is no regular"),
    "size": ({"budget": "big"}, "budget: size 'big': write bytes", "--budget: size 'big'"),
    "dict": ({"dynamic": ["x:1"]}, "dynamic: a dict by input name is needed", "--dynamic: a dict"),
    "input": ({"inputs": 3}, "inputs=3: a list is needed", "--input 3: a list"),
    "two": ({"avg_bits": 5, "budget": 7}, "avg_bits and budget: give one of them",
            "--avg-bits and --budget: give one"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_value_is_refused_in_the_words_of_who_called(case: str) -> None:
    given, python, command = REFUSED[case]
    with pytest.raises(UsageError) as caught:
        parse_options(**given)
    assert str(caught.value).startswith(python)
    assert "--" not in str(caught.value)
    assert worded(caught.value.text, on_command_line).startswith(command)


def test_text_and_numpy_numbers_are_read_as_the_command_line_reads_them() -> None:
    text = parse_options(
        bits="8", group_size="64", head_bits="none", accuracy_level="4", max_loss="0.5",
        formats="pt2,onnx,pt2", exclude="a,b",
    )  # fmt: skip
    values = parse_options(
        bits=np.int64(8), group_size=64, head_bits=0, accuracy_level=4, max_loss=0.5,
        formats=["onnx", "pt2"], exclude=("a", "b"),
    )  # fmt: skip
    assert text == values
    assert type(values.bits) is int


def test_the_width_of_a_head_may_be_left_open() -> None:
    """The passes then begin with the wide one."""
    options = parse_options(head_bits="auto")
    assert options.head_bits == "auto"
    assert "head-bits" not in str(build_pipeline(options))


def test_an_unknown_option_is_told_the_others() -> None:
    with pytest.raises(UsageError, match=r"no option 'bist'; options: accuracy_level, .*bits"):
        parse_options(bist=4)


def test_each_field_is_declared_with_help_and_takes_its_own_default() -> None:
    assert list(DECLARED) == [field.name for field in dataclasses.fields(Options)]
    for one in DECLARED.values():
        assert one.help.endswith(".")
        assert one.group in GROUPS
        assert one.checked(one.default) == one.default
    assert parse_options(**vars(Options())) == Options() == parse_options()


CHOICES = {
    "bits": BITS,
    "head_bits": BITS,
    "conv_bits": BITS,
    "embed_bits": [bits for bits in TABLE_BITS if bits],
    "effort": EFFORTS,
    "rounding": ["auto", *ROUNDINGS],
    "formats": FORMATS,
    "layout": LAYOUTS,
    "dtype": ["auto", *DTYPES],
    "accuracy_level": ["auto", *map(int, LEVELS)],
    "positions": ["auto", "given"],
    "target": [AUTO, *TARGETS],
    "provider": PROVIDERS,
    "verify_with": runtime_names(),
    "runtime_scales": RUNTIME_CHOICES,
    "runtime_numerics": NUMERICS,
}


def test_choices_are_those_that_the_code_knows() -> None:
    """Options are read without torch, so they repeat names that others have: here is the proof."""
    assert {name for name, one in DECLARED.items() if one.choices} == set(CHOICES)
    for name, known in CHOICES.items():
        assert list(DECLARED[name].choices) == list(known), name
    assert list(EFFORT_ROUNDINGS) == list(ROUNDINGS)


def test_weights_have_the_defaults_of_a_request() -> None:
    request = QuantizationSpec()
    options = Options()
    for name in (
        "bits",
        "group_size",
        "symmetric",
        "exclude",
        "head_bits",
        "embed_bits",
        "conv_bits",
    ):
        assert getattr(options, name) == getattr(request, name)


def test_the_command_line_has_each_option_with_its_default() -> None:
    command = cli.get_command(click.Context(cli), "compile")
    assert command is not None
    found = {param.name: param for param in command.params}
    for name, one in DECLARED.items():
        param = found[name]
        assert isinstance(param, click.Option)
        assert param.opts == [one.flags]
    context = command.make_context("compile", ["model.pt2"])
    given = {name: context.params[name] for name in DECLARED}
    assert parse_options(**given) == Options()


def test_a_value_reaches_compile_as_the_command_line_got_it() -> None:
    command = cli.get_command(click.Context(cli), "compile")
    assert command is not None
    line = (
        "m.pt2 --input x=float32[b,4] --input y=int64[b] --dynamic x:1=t --trust-pickle --bits 8 "
        "--group-size -1 --exclude a --exclude b,c --head-bits none --budget 90MB --formats pt2 "
        "--accuracy-level 1 --max-loss 0.5 --seq-len 7 --recipe r.json"
    )
    params = command.make_context("compile", line.split()).params
    assert parse_options(**{name: params[name] for name in DECLARED}) == Options(
        inputs=("x=float32[b,4]", "y=int64[b]"), dynamic={"x": {1: "t"}}, trust_pickle=True,
        bits=8, group_size=-1, exclude=("a", "b,c"), head_bits=0, budget="90MB",
        formats=("pt2",), accuracy_level=1, max_loss=0.5, seq_len=7, recipe=Path("r.json"),
    )  # fmt: skip


def test_reading_options_loads_and_builds_nothing() -> None:
    code = (
        "import sys; from awqc.options import parse_options; "
        "parse_options(recipe='no.json', provider='cuda', device='cuda:9', pipeline='nothing'); "
        "print([name for name in ('torch', 'numpy', 'onnxruntime') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_passes_follow_from_options() -> None:
    assert "rounding=gptq" in str(build_pipeline(parse_options()))
    fast = str(build_pipeline(parse_options(effort="fast", bits=3, group_size=32)))
    assert "quantize-weights{bits=3,group-size=32}" in fast
    assert "tune-scales" not in fast
    mixed = str(build_pipeline(parse_options(avg_bits=5)))
    assert "allocate-bits{avg-bits=5" in mixed


def test_the_page_of_options_is_current() -> None:
    made = subprocess.run(
        [sys.executable, ".ci/options_page.py"],
        cwd=ROOT, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert made.stdout == (ROOT / "docs" / "options.md").read_text(), (
        "docs/options.md is out of date: python .ci/options_page.py > docs/options.md"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": 2**64}, "at most 64 bits"),
        ({"seed": -(2**64)}, "at most 64 bits"),
        ({"avg_bits": float("inf")}, "give 32 or less"),
        ({"budget": "9" * 400}, "write bytes"),
        ({"num_samples": 2**70}, "give 1e+06 or less"),
        ({"group_size": 2**70}, "or less"),
        ({"recipe": "a\0b"}, "a path cannot hold a zero byte"),
        ({"dynamic": {"x": 3}}, "for 'x' give axes as"),
        ({"dynamic": {"x": ["a"]}}, "for 'x' give axes as"),
        ({"dynamic": {"x": {0: 3}}}, "for 'x' give axes as"),
    ],
)
def test_values_beyond_measure_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        parse_options(**given)


LABELS = ["\x1b[31m", "a-b", "a.b", "__import__('os')", "2", "a" * 200, "a +b"]


@pytest.mark.parametrize("label", LABELS)
def test_a_label_of_an_axis_is_a_word(label: str) -> None:
    with pytest.raises(UsageError, match="is no name of an axis"):
        parse_options(dynamic={"x": {0: label}})
    with pytest.raises(UsageError, match="is no name of an axis"):
        read_axes((f"x:0={label}",))


def test_an_axis_is_a_number() -> None:
    for text in ("x:²", "x:-1", "x:1.5", "x:"):
        with pytest.raises(UsageError, match="write NAME:AXIS"):
            read_axes((text,))
    assert read_axes(("x:1=past + seq",)) == {"x": {1: "past + seq"}}

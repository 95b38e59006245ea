"""What passes need, bar, give and end; and what is said where an order does not work."""

from __future__ import annotations

import re
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from awqc.compiler import compile_graph
from awqc.errors import UsageError
from awqc.findings import Fact
from awqc.passes.base import Pass
from awqc.passes.calibrate import Calibrate
from awqc.passes.insert_observers import InsertObservers
from awqc.passes.order import check_order
from awqc.passes.pipeline import DEFAULT, GIVERS, PASSES, Pipeline, parse_pipeline
from awqc.passes.quantize_weights import QuantizeWeights
from awqc.passes.search_scales import SearchScales
from awqc.passes.spelling import build, spell_all
from tests.tiny import calibration, captured, inputs, model, relative, run

VARIANTS: dict[str, list[dict[str, object]]] = {
    "search-scales": [{}, {"runtime_numerics": "ort-default"}],
    "quantize-weights": [{}, {"rounding": "gptq"}, {"clip": True}, {"sweeps": 1}],
    "convert-dtype": [{}, {"dtype": "float16"}],
}
"""Options on which it depends what a pass needs or bars."""

STEPS: list[Pass] = [
    build(cls, options) for name, cls in PASSES.items() for options in VARIANTS.get(name, [{}])
]
NEEDS = [(step, fact) for step in STEPS for fact in Fact if fact in step.needs]
BARS = [(step, fact) for step in STEPS for fact in Fact if fact in step.bars]


def refusal(steps: list[Pass], facts: frozenset[Fact] = frozenset()) -> str:
    with pytest.raises(UsageError) as error:
        Pipeline(tuple(steps), facts)
    return str(error.value)


def proposal(message: str) -> Pipeline:
    """What the message says is to be written."""
    written = re.search(r": write (\S+)$", message)
    assert written is not None, message
    return parse_pipeline(written[1])


@pytest.mark.parametrize(("step", "fact"), NEEDS, ids=str)
def test_what_a_pass_needs_is_named_with_what_gives_it(step: Pass, fact: Fact) -> None:
    """All other needs hold: the one that is missing is named, and what is proposed works."""
    message = refusal([step], step.needs - {fact})
    assert message.startswith(f"{step.name} needs {fact}, which ")
    givers = [each for each in GIVERS if fact in each.gives]
    assert any(f"which {each.name}" in message for each in givers)
    proposed = proposal(refusal([step]))
    assert proposed.passes[-1] == step


@pytest.mark.parametrize(("step", "fact"), BARS, ids=str)
def test_what_a_pass_bars_is_named(step: Pass, fact: Fact) -> None:
    message = refusal([step], step.needs | {fact})
    assert message.startswith(f"{step.name} cannot run where there are {fact}, which the program")


@pytest.mark.parametrize("fact", Fact)
def test_every_fact_has_a_pass_that_gives_it(fact: Fact) -> None:
    assert any(fact in step.gives for step in GIVERS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "canonicalize,search-scales,fold-scales,quantize-weights",
            "search-scales needs sites, which insert-observers gives: write "
            "canonicalize,insert-observers,calibrate,search-scales",
        ),
        (
            "canonicalize,insert-observers{seed=3},calibrate,quantize-weights{rounding=gptq}",
            "quantize-weights needs moments, which insert-observers{gram=true} gives: write "
            "canonicalize,insert-observers{seed=3,gram=true},calibrate,"
            "quantize-weights{rounding=gptq}",
        ),
        (
            "canonicalize,quantize-weights,tune-scales",
            "tune-scales needs float-outputs, which quantize-weights{keep-float=true} gives: write "
            "canonicalize,quantize-weights{keep-float=true},tune-scales",
        ),
        (
            "quantize-weights{keep-float=true},tune-scales,tune-scales",
            "tune-scales needs float-outputs, which quantize-weights{keep-float=true} gives and "
            "tune-scales ends: leave one tune-scales out",
        ),
        (
            "insert-observers,quantize-weights",
            "quantize-weights cannot run where there are observers, which insert-observers "
            "gives: write insert-observers,calibrate,quantize-weights",
        ),
        (
            "insert-observers,calibrate,canonicalize",
            "canonicalize cannot run where there are sites, which insert-observers gives: write "
            "canonicalize,insert-observers,calibrate",
        ),
        (
            "quantize-weights,insert-observers",
            "insert-observers cannot run where there are codes, which quantize-weights gives: "
            "put quantize-weights behind insert-observers",
        ),
        (
            "convert-dtype{dtype=float16},quantize-weights",
            "quantize-weights cannot run where there are half-casts, which convert-dtype gives: "
            "write quantize-weights,convert-dtype{dtype=float16}",
        ),
    ],
)
def test_an_order_that_does_not_work_is_explained(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_pipeline(text)
    assert str(error.value) == message


def test_a_compile_refuses_before_it_does_anything() -> None:
    with pytest.raises(UsageError, match="search-scales needs sites"):
        compile_graph(
            torch.nn.Identity(),
            None,
            pipeline="canonicalize,search-scales,fold-scales,quantize-weights",
        )


def test_a_program_that_lacks_what_the_pipeline_was_told_is_refused() -> None:
    given = frozenset({Fact.SITES, Fact.STATISTICS})
    with pytest.raises(UsageError, match="search-scales needs sites"):
        Pipeline((SearchScales(),), given).run(captured("mlp"))


def test_facts_go_with_the_program() -> None:
    program = captured("mlp")
    run(program, "canonicalize,insert-observers")
    assert program.findings.facts == {Fact.OBSERVERS, Fact.SITES}
    Pipeline((Calibrate(), SearchScales()), program.findings.facts).run(
        program, calibration(program)
    )
    assert program.findings.facts == {Fact.SITES, Fact.STATISTICS, Fact.SCALES}
    with pytest.raises(UsageError, match="there are scales, which the program has"):
        Pipeline((InsertObservers(),)).run(program)


def test_of_all_orders_of_the_default_only_the_default_is_accepted() -> None:
    """Each is refused by a message that says what to do, or it is the default itself."""
    for names in permutations(DEFAULT.split(",")):
        text = ",".join(names)
        if text == DEFAULT:
            parse_pipeline(text)
        else:
            with pytest.raises(UsageError, match=r": (write|put|leave) "):
                parse_pipeline(text)


WORK: list[tuple[str, dict[str, Any]]] = [
    ("convert-dtype", {}),
    ("canonicalize", {}),
    ("insert-observers", {}),
    ("insert-observers", {"gram": True, "samples": 8}),
    ("calibrate", {}),
    ("calibrate", {}),
    ("search-scales", {"grid": 2}),
    ("search-scales", {"grid": 2, "runtime_numerics": "ort-default"}),
    ("fold-scales", {}),
    ("allocate-bits", {"avg_bits": 16.0, "choices": ("8",)}),
    ("quantize-weights", {"bits": 8}),
    ("quantize-weights", {"bits": 8, "rounding": "gptq", "keep_float": True}),
    ("tune-scales", {}),
    ("convert-dtype", {"dtype": "bfloat16"}),
]
POOL: list[Pass] = [build(PASSES[name], options) for name, options in WORK]


@settings(max_examples=25, deadline=None)
@given(st.permutations(POOL))
def test_passes_in_any_order_are_refused_or_give_a_model(order: list[Pass]) -> None:
    """A pass that may not stand where it is, is refused; what is left runs and keeps the model."""
    steps: list[Pass] = []
    for step in order:
        try:
            Pipeline((*steps, step))
        except UsageError:
            continue
        steps.append(step)
    if Fact.OBSERVERS in check_order(steps, GIVERS):
        steps.append(Calibrate())
    program = captured("gated")
    (wanted,) = program.run(program.example)
    Pipeline(tuple(steps)).run(program, calibration(program))
    found, names = program.findings, {step.name for step in steps}
    assert bool(found.quantized) == ("quantize-weights" in names)
    assert bool(found.scales) == ("search-scales" in names)
    folded = [site.status for site in found.sites if site.status == "folded"]
    assert bool(folded) == ("fold-scales" in names)
    (got,) = program.run(
        {spec.name: program.example[spec.name].to(spec.dtype) for spec in program.inputs}
    )
    # 8 bits, in bfloat16 at most: half a percent each.
    assert relative(got, wanted) < 0.03


def test_a_pipeline_is_built_of_passes_and_printed_as_text() -> None:
    steps = (InsertObservers(gram=True), Calibrate(), QuantizeWeights(keep_float=True))
    pipeline = Pipeline(steps)
    assert str(pipeline) == spell_all(steps)
    assert parse_pipeline(str(pipeline)) == pipeline


def test_options_of_a_compile_fill_a_pipeline_that_is_text() -> None:
    compiled = compile_graph(
        model("mlp"), (inputs("mlp"),), pipeline="canonicalize,quantize-weights", bits=8,
        formats=("pt2",),
    )  # fmt: skip
    assert compiled.report["recipe"]["pipeline"] == "canonicalize,quantize-weights{bits=8}"

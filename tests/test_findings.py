"""Findings are records: nobody writes into one, a pass gives the program a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields

import pytest

from awqc.findings import Allocation, Findings
from awqc.program import Program
from tests.tiny import captured, run

EVERYTHING = (
    "canonicalize,insert-observers{gram=true},calibrate,search-scales,fold-scales,"
    "allocate-bits{avg-bits=9},quantize-weights{rounding=gptq,keep-float=true}"
)


@pytest.fixture(scope="module")
def found() -> Findings:
    return run(captured("gated"), EVERYTHING).findings


def test_every_field_of_a_full_compile_is_frozen(found: Findings) -> None:
    """As are the mappings, of which none is empty here, but for what onlookers take."""
    for field in fields(Findings):
        value = getattr(found, field.name)
        with pytest.raises(FrozenInstanceError):
            setattr(found, field.name, value)
        if isinstance(value, Mapping) and field.name not in ("skipped", "float_layers"):
            assert value, field.name
        if isinstance(value, Mapping):
            with pytest.raises(TypeError):
                value["weight"] = None  # type: ignore[index]  # what must be refused
        assert not isinstance(value, list | set | dict), field.name


def test_records_within_are_frozen_too(found: Findings) -> None:
    assert isinstance(found.allocation, Allocation)
    with pytest.raises(TypeError):
        found.allocation.widths["gate.weight"] = 2  # type: ignore[index]  # what must be refused
    for record in (
        found.allocation,
        *found.sites,
        *found.scales.values(),
        *found.errors.values(),
        *found.statistics.values(),
        *found.quantized.values(),
    ):
        first = fields(record)[0].name  # type: ignore[arg-type]  # records are dataclasses
        with pytest.raises(FrozenInstanceError):
            setattr(record, first, None)


def test_a_dict_that_was_given_is_no_way_in() -> None:
    mine = {"a": "why"}
    made = Findings(skipped=mine)
    mine["b"] = "later"
    assert made.skipped == {"a": "why"}


def test_learning_replaces_the_record_and_leaves_the_former() -> None:
    program: Program = captured("mlp")
    before = program.findings
    program.learn(skipped={"a": "why"})
    assert before.skipped == {}
    assert program.findings.skipped == {"a": "why"}
    with pytest.raises(TypeError):
        program.learn(skiped={})

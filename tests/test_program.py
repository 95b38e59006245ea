"""A program holds the program: what a clone shares, and what it does not."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from torch import Tensor, nn

from awqc.passes.insert_observers import OBSERVERS
from awqc.program import Interface, Program, Task
from tests.tiny import captured, run

SEARCHED = "canonicalize,insert-observers{gram=true},calibrate,search-scales"
QUANTIZED = f"{SEARCHED},fold-scales,quantize-weights{{rounding=gptq,keep-float=true}}"


def places(module: nn.Module) -> set[int]:
    """Where the tensors of ``module`` lie in memory."""
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


@pytest.mark.parametrize("spec", ["canonicalize", SEARCHED, QUANTIZED])
def test_a_clone_shares_no_node_and_no_weight(program: Program, spec: str) -> None:
    run(program, spec)
    copied = program.clone()
    assert not places(program.graph_module) & places(copied.graph_module)
    assert not set(program.graph.nodes) & set(copied.graph.nodes)
    for node in copied.graph.nodes:
        assert node.graph is copied.graph


def test_a_clone_shares_the_frozen_records_that_it_says() -> None:
    program = run(captured("gated"), QUANTIZED)
    copied = program.clone()
    for field in fields(Program):
        mine, other = getattr(program, field.name), getattr(copied, field.name)
        assert (mine is other) == (field.name != "graph_module"), field.name


def test_a_clone_shares_observers() -> None:
    program = run(captured("mlp"), "canonicalize,insert-observers")
    copied = program.clone()
    for name, observer in program.graph_module.get_submodule(OBSERVERS).named_children():
        assert copied.graph_module.get_submodule(f"{OBSERVERS}.{name}") is observer


def test_what_is_done_to_a_clone_stays_there() -> None:
    program = run(captured("gated"), SEARCHED)
    before = {name: value.clone() for name, value in program.parameters().items()}
    nodes, found = [str(node) for node in program.graph.nodes], program.findings
    copied = program.clone()
    run(copied, "fold-scales,quantize-weights,convert-dtype{dtype=float16}")
    copied.notes = (*copied.notes, "changed")
    assert program.findings is found
    assert program.notes == ()
    assert {spec.dtype for spec in program.inputs} == {torch.float32}
    assert [str(node) for node in program.graph.nodes] == nodes
    after = program.parameters()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_interface_and_task_are_frozen() -> None:
    program = captured("mlp")
    for record, field in ((program.interface, "inputs"), (program.task, "mask_input")):
        with pytest.raises(FrozenInstanceError):
            setattr(record, field, None)
    with pytest.raises(AttributeError):
        setattr(program, "inputs", ())  # noqa: B010 - mypy would refuse the plain assignment


def test_short_names_are_those_of_the_records() -> None:
    program = captured("mlp")
    assert [f.name for f in fields(Interface)] == [
        "inputs", "outputs", "call", "example", "states", "steps",
    ]  # fmt: skip
    for name in ("inputs", "outputs", "example", "states"):
        assert getattr(program, name) is getattr(program.interface, name)
    program.task = Task("x", ("y",))
    assert (program.mask_input, program.head_outputs) == ("x", ("y",))


def test_a_variant_shares_tensors_and_no_node() -> None:
    """Codes of a program that is to compute in another dtype lie in memory once."""
    program = run(captured("gated"), QUANTIZED)
    before = {name: value.clone() for name, value in program.parameters().items()}
    other = program.variant()
    assert not set(program.graph.nodes) & set(other.graph.nodes)
    assert places(other.graph_module) == places(program.graph_module)
    run(other, "convert-dtype{dtype=float16}")
    packed = [name for name in before if name.endswith(".packed")]
    assert packed
    for name in packed:
        assert other.weight(name).data_ptr() == program.weight(name).data_ptr()
    after = program.parameters()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert {value.dtype for value in other.parameters().values()} >= {torch.float16}

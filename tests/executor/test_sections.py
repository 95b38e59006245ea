"""Segments as programs: one after another they give what the whole gives, and make it again."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.fx import Interpreter

from awqc.executor.sections import CUT, Sections
from awqc.executor.segments import cut, weights_read
from awqc.machine.narrow import Narrow
from awqc.program import Program
from tests.executor.test_segments import FOUND, decoder
from tests.tiny import run

finest = partial(cut, smallest=1)


def found() -> Program:
    return run(decoder(), FOUND)


def test_parts_hand_on_what_lives() -> None:
    whole = found()
    parts = Sections(whole, finest(whole))
    assert len(parts) > 3
    values = dict(whole.example)
    for index in range(len(parts)):
        part = parts.part(index, values)
        outputs = part.program.run(values)
        values |= dict(zip(part.program.outputs, outputs, strict=True))
        assert set(part.onward) <= set(part.program.outputs)
        for name, value in part.program.example.items():
            assert value is values[name]
        last = values.get(whole.outputs[0])
        values = {name: value for name, value in values.items() if name in parts.needed(index)}
    assert last is not None
    assert torch.equal(last, whole.run(whole.example)[0])


def test_parts_have_the_names_and_sites_of_the_whole() -> None:
    whole = found()
    nodes = {node.name for node in whole.graph.nodes if node.op == "call_function"}
    parts = Sections(whole, finest(whole))
    made = [parts.part(i, _values(whole)).program for i in range(len(parts))]
    names = [n.name for each in made for n in each.graph.nodes if n.op == "call_function"]
    assert sorted(names) == sorted(nodes)
    sites = [site.name for each in made for site in each.findings.sites]
    assert sorted(sites) == sorted(site.name for site in whole.findings.sites)


def test_joined_parts_are_the_program_again() -> None:
    whole = found()
    wanted = whole.run(whole.example)[0]
    before = whole.findings
    parts = Sections(whole, finest(whole))
    for index in range(len(parts)):
        part = parts.part(index, _values(whole)).program
        _drop_observers(part)
        parts.finish(part)
    parts.join()
    whole.graph.lint()
    assert torch.equal(whole.run(whole.example)[0], wanted)
    assert whole.findings.sites == before.sites


@pytest.mark.parametrize("smallest", [1, 5000, 2**40])
def test_segments_are_as_large_as_asked(smallest: int) -> None:
    program = found()
    sizes = [weights_read(segment.nodes) for segment in cut(program, smallest=smallest)]
    assert all(size >= smallest for size in sizes[:-1])
    assert (len(sizes) == 1) == (smallest == 2**40)


def _values(program: Program) -> dict[str, torch.Tensor]:
    """Every value of the program, by name."""
    kept: dict[str, torch.Tensor] = dict(program.example)

    class Recorder(Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            value = super().run_node(n)
            kept.setdefault(f"{CUT}{n.name}", value)
            return value

    Recorder(program.graph_module).run(*program.example.values())
    return kept


def _drop_observers(program: Program) -> None:
    for node in list(program.graph.nodes):
        if node.op == "call_module":
            program.graph.erase_node(node)
    program.tidy()


def test_narrow_weights_stay_narrow() -> None:
    whole = found()
    for name, value in whole.parameters().items():
        owner, _, leaf = name.rpartition(".")
        module = whole.graph_module.get_submodule(owner)
        delattr(module, leaf)
        module.register_parameter(leaf, Narrow.of(value.detach().bfloat16()))
    parts = Sections(whole, finest(whole))
    part = parts.part(0, _values(whole)).program
    assert any(isinstance(value, Narrow) for value in part.parameters().values())

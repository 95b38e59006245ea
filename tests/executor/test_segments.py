"""Where programs are cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from awqc.executor.segments import cut, whole
from awqc.graph.linears import find_linears
from awqc.program import Program
from tests.tiny import GatedBlock, GroupedAttention, capture, captured_once, model, run

FOUND = "canonicalize,insert-observers{gram=true}"


class Decoder(nn.Module):
    """Blocks of attention and a gated product, with a mask that all of them read."""

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        parts = [(GroupedAttention(), GatedBlock()) for _ in range(blocks)]
        self.parts = nn.ModuleList(part for pair in parts for part in pair)
        self.head = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.tanh(x).abs().mean(-1, keepdim=True)
        for part in self.parts:
            x = part(x) * (1 + scale)
        out: Tensor = self.head(x)
        return out


@captured_once
def decoder() -> Program:
    torch.manual_seed(0)
    return capture(Decoder().eval(), torch.randn(2, 5, 32))


def spans(program: Program) -> list[set[str]]:
    """For each site the nodes that read what its scales change, and its products."""
    found = []
    for site in program.findings.sites:
        nodes = {reader.node for reader in site.readers}
        for node in program.graph.nodes:
            if node.op == "get_attr" and str(node.target) in site.edits:
                nodes |= {user.name for user in node.users}
        found.append(nodes)
    return found


def test_a_decoder_is_cut_between_its_parts() -> None:
    program = run(decoder(), FOUND)
    segments = cut(program, smallest=1)
    assert len(segments) >= 4
    assert [node for segment in segments for node in segment.nodes] == list(program.graph.nodes)
    products = {linear.node for linear in find_linears(program.graph)}
    assert all(products & set(segment.nodes) for segment in segments)


@pytest.mark.parametrize("few", [1, 2, 8])
def test_no_more_values_live_at_a_cut_than_may(few: int) -> None:
    """Two do in this decoder between blocks: the stream and the scale that all of them read."""
    program = run(decoder(), FOUND)
    segments = cut(program, few, smallest=1)
    assert (len(segments) > 2) == (few > 1)
    for index, segment in enumerate(segments):
        later = {node for rest in segments[index + 1 :] for node in rest.nodes}
        made = {
            node
            for before in segments[: index + 1]
            for node in before.nodes
            if isinstance(node.meta.get("val"), Tensor) and later & set(node.users)
            if node.op == "call_function"
        }
        assert len(made) <= few, segment.nodes[-1]


def test_no_site_straddles_a_cut(program: Program) -> None:
    for each in (run(program, FOUND), run(decoder(), FOUND)):
        segments = [{node.name for node in segment.nodes} for segment in cut(each, smallest=1)]
        for span in spans(each):
            assert sum(bool(span & segment) for segment in segments) <= 1, span


def test_a_program_without_a_place_is_one_segment() -> None:
    """Each layer of this network hands its scales to the next: sites cover all of it."""
    program = run(capture(model("mlp").eval(), torch.randn(4, 16)), FOUND)
    assert len(cut(program, smallest=1)) <= 2
    assert cut(program, few=0, smallest=1) == whole(program)

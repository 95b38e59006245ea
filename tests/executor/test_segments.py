"""Where programs are cut, and that running them in pieces gives the same bits as in one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from awqc.executor.segments import Segment, cut, whole
from awqc.graph.linears import find_linears
from awqc.passes.pipeline import parse_pipeline
from awqc.program import Program
from tests.tiny import GatedBlock, GroupedAttention, calibration, capture, model, run

FOUND = "canonicalize,insert-observers{gram=true}"
QUANTIZED = f"{FOUND},calibrate,search-scales,fold-scales,quantize-weights{{rounding=gptq}}"


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
    segments = cut(program)
    assert len(segments) >= 4
    assert [node for segment in segments for node in segment.nodes] == list(program.graph.nodes)
    products = {linear.node for linear in find_linears(program.graph)}
    assert all(products & set(segment.nodes) for segment in segments)


@pytest.mark.parametrize("few", [1, 2, 8])
def test_no_more_values_live_at_a_cut_than_may(few: int) -> None:
    """Two do in this decoder between blocks: the stream and the scale that all of them read."""
    program = run(decoder(), FOUND)
    segments = cut(program, few)
    assert (len(segments) > 2) == (few > 1)
    for index, segment in enumerate(segments):
        later = {node for rest in segments[index + 1 :] for node in rest.nodes}
        made = {
            node
            for before in segments[: index + 1]
            for node in before.nodes
            if node.op == "call_function" and later & set(node.users)
            if isinstance(node.meta["val"], Tensor)
        }
        assert len(made) <= few, segment.nodes[-1]


def test_no_site_straddles_a_cut(program: Program) -> None:
    for each in (run(program, FOUND), run(decoder(), FOUND)):
        segments = [{node.name for node in segment.nodes} for segment in cut(each)]
        for span in spans(each):
            assert sum(bool(span & segment) for segment in segments) <= 1, span


def test_a_program_without_a_place_is_one_segment() -> None:
    """Each layer of this network hands its scales to the next: sites cover all of it."""
    program = run(capture(model("mlp").eval(), torch.randn(4, 16)), FOUND)
    assert len(cut(program)) <= 2
    assert cut(program, few=0) == whole(program)


def learned(make: Callable[[], Program], pieces: Callable[[Program], list[Segment]]) -> Program:
    program = make()
    parse_pipeline(QUANTIZED).run(program, calibration(program), cut=pieces)
    return program


def nodes_alone(program: Program) -> list[Segment]:
    """The finest cut there is: a node a segment, whatever lives."""
    return [Segment((node,)) for node in program.graph.nodes]


@pytest.mark.parametrize("pieces", [cut, nodes_alone])
def test_pieces_give_the_same_bits_as_the_whole(
    pieces: Callable[[Program], list[Segment]],
) -> None:
    plain, cut_up = learned(decoder, whole), learned(decoder, pieces)
    assert plain.findings.statistics.keys() == cut_up.findings.statistics.keys()
    for name, statistics in plain.findings.statistics.items():
        other = cut_up.findings.statistics[name]
        assert statistics.tokens == other.tokens > 0
        assert torch.equal(statistics.factor, other.factor)
        assert torch.equal(statistics.abs_mean, other.abs_mean)
    for name, scale in plain.findings.scales.items():
        assert torch.equal(scale.scale, cut_up.findings.scales[name].scale)
    assert plain.findings.quantized.keys() == cut_up.findings.quantized.keys()
    for name, weight in plain.findings.quantized.items():
        twin = cut_up.findings.quantized[name]
        assert weight.format == twin.format
        assert weight.tensors.keys() == twin.tensors.keys()
        for role, tensor in weight.tensors.items():
            assert torch.equal(tensor, twin.tensors[role])
    (first,), (second,) = (each.run(each.example) for each in (plain, cut_up))
    assert torch.equal(first, second)


@pytest.mark.parametrize("pieces", [cut, nodes_alone])
def test_moments_of_small_models_are_the_same_bits(
    program: Program, pieces: Callable[[Program], list[Segment]]
) -> None:
    other = program.clone()
    pipeline = parse_pipeline(f"{FOUND},calibrate")
    pipeline.run(program, calibration(program))
    pipeline.run(other, calibration(other), cut=pieces)
    for name, statistics in program.findings.statistics.items():
        gram, again = statistics.gram, other.findings.statistics[name].gram
        assert gram is not None
        assert again is not None
        assert torch.equal(gram, again)

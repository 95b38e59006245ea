"""Which last pieces can be run a slice of rows at a time: slices give the slices of the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from awqc.program import Program, Task
from awqc.weights.tuning import rows
from awqc.weights.tuning.outline import outline
from awqc.weights.tuning.pieces import cut_up, inputs_of
from awqc.weights.tuning.rows import Rows
from tests.tiny import GroupedAttention, capture, run

WIDTH, VOCABULARY, TOKENS = 32, 24, 6


class Ending(nn.Module):
    """Two products, and then what the case says."""

    def __init__(self, end: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 48), nn.Linear(48, WIDTH)
        self.norm, self.root = nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.mixing = GroupedAttention(WIDTH)
        self.places = nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.gain = nn.Parameter(torch.rand(WIDTH))
        self.head = nn.Linear(WIDTH, VOCABULARY)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.relu(self.second(torch.relu(self.first(x))))
        return self.end(self, x)


ROW_BY_ROW: dict[str, Callable[..., Tensor]] = {
    "a product": lambda m, x: m.head(x),
    "a norm of root mean squares": lambda m, x: m.head(m.root(x)),
    "a norm with a mean": lambda m, x: m.head(m.norm(x)),
    "a norm written out": lambda m, x: m.head(
        m.gain * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
    ),
    "all of a slice": lambda m, x: m.head(m.root(x)[:, 0:, :]),
    "a cap on logits": lambda m, x: 30 * torch.tanh(m.head(m.root(x)) / 30),
}
ACROSS_ROWS: dict[str, Callable[..., Tensor]] = {
    "a mean over tokens": lambda m, x: m.head(x - x.mean(1, keepdim=True)),
    "a running sum": lambda m, x: m.head(x.cumsum(1)),
    "a tensor that has rows itself": lambda m, x: m.head(x + m.places),
    "the last token": lambda m, x: m.head(x[:, -1]),
    "a softmax over tokens": lambda m, x: m.head(x).softmax(1),
    "some tokens": lambda m, x: m.head(x[:, 1:]),
    "an attention": lambda m, x: m.head(x) * m.mixing(x).mean(-1, keepdim=True),
    "tokens in reverse": lambda m, x: m.head(x.flip(1)),
}


def made(end: Callable[..., Tensor]) -> Program:
    torch.manual_seed(0)
    program = capture(Ending(end).eval(), torch.randn(2, TOKENS, WIDTH))
    program.task = Task(head_outputs=program.outputs)
    return outline(run(program, "canonicalize"))


@pytest.mark.parametrize("name", list(ROW_BY_ROW))
def test_slices_give_slices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "ELEMENTS", 5 * VOCABULARY)
    program = made(ROW_BY_ROW[name])
    pieces = cut_up(program, ())
    assert len(pieces) > 1
    batch = {program.inputs[0].name: torch.randn(2, TOKENS, WIDTH)}
    with torch.no_grad():
        values = inputs_of(program, batch)
        for piece in pieces[:-1]:
            values |= piece(values)
        head = pieces[-1]
        read = [values[node] for node in head.reads]
        how = Rows.of(program, head.module.graph, len(read))
        assert how is not None
        assert how.at_once == 5
        found: list[Tensor] = []
        for part, count in how.slices(batch, read):
            assert count == 2 * TOKENS
            assert len(part) <= 5
            (logits,) = head.module(*how.pick(read, part))
            found.append(logits.reshape(-1, VOCABULARY))
        (whole,) = head.module(*read)
    torch.testing.assert_close(torch.cat(found), whole.reshape(-1, VOCABULARY))


@pytest.mark.parametrize("name", list(ACROSS_ROWS))
def test_what_looks_at_other_rows_is_run_whole(name: str) -> None:
    program = made(ACROSS_ROWS[name])
    head = cut_up(program, ())[-1]
    assert Rows.of(program, head.module.graph, len(head.reads)) is None


def test_outputs_that_are_no_logits_are_whole() -> None:
    program = made(ROW_BY_ROW["a product"])
    program.task = Task()
    head = cut_up(program, ())[-1]
    assert Rows.of(program, head.module.graph, len(head.reads)) is None


def test_padding_is_left_out() -> None:
    program = made(ROW_BY_ROW["a product"])
    program.task = Task("mask", program.outputs)
    head = cut_up(program, ())[-1]
    read: Sequence[Tensor] = [torch.randn(2, TOKENS, WIDTH) for _ in head.reads]
    how = Rows.of(program, head.module.graph, len(read))
    assert how is not None
    mask = torch.ones(2, TOKENS, dtype=torch.int64)
    mask[0, 3:] = 0
    ((part, count),) = how.slices({"mask": mask}, read)
    assert part.tolist() == [0, 1, 2, *range(TOKENS, 2 * TOKENS)]
    assert count == TOKENS + 3

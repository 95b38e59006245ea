"""Axes that go through an operation whole are looked at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.channels.analysis import find_sites
from awqc.channels.moves import Move
from awqc.channels.rules import moving

LABELS, NONE = torch.ones(1, 1, 8, dtype=torch.int64), torch.zeros(1, 1, 1, dtype=torch.int64)

Shape = tuple[int, ...]
MOVES: dict[str, tuple[Callable[[Tensor], list[Tensor]], Shape, list[Shape]]] = {
    "a view": (lambda x: [x.view(2, 5, 4, 2)], (1, 1, 8), [(1, 1, 4, 2)]),
    "a permutation": (lambda x: [x.permute(2, 1, 0)], (1, 1, 8), [(8, 1, 1)]),
    "a cut": (lambda x: list(x.split(4, dim=2)), (1, 1, 8), [(1, 1, 4), (1, 1, 4)]),
    "a slice": (lambda x: [x[:, 1:]], (1, 5, 8), [(1, 4, 8)]),
    "axes made one": (lambda x: [x.reshape(10, 8)], (2, 5, 8), [(10, 8)]),
    "the other way round": (lambda x: [x.flip(1)], (1, 5, 8), [(1, 5, 8)]),
    "zeros around": (lambda x: [nn.functional.pad(x, (1, 1))], (1, 1, 8), [(1, 1, 10)]),
}  # fmt: skip


def moved(function: Callable[[Tensor], list[Tensor]], shape: tuple[int, ...]) -> list[Tensor]:
    """Numbers of the sources, of zeros -1."""
    numbers = torch.arange(1, torch.Size(shape).numel() + 1).view(shape)
    return [each - 1 for each in function(numbers)]


@pytest.mark.parametrize("kind", list(MOVES))
def test_axes_that_go_through_whole_are_left_out(kind: str) -> None:
    function, shape, made = MOVES[kind]
    slim = Move(((2, 5, 8),), tuple(moved(function, (2, 5, 8)))).slim([LABELS], {})
    assert slim.shapes == (shape,)
    assert [tuple(source.shape) for source in slim.sources] == made
    if shape == (1, 1, 8):
        labels = torch.arange(8)
        wanted = function((labels + 1).expand(2, 5, 8).contiguous())
        for source, values in zip(slim.sources, wanted, strict=True):
            found = torch.where(source >= 0, labels[source.clamp(min=0)] + 1, 0)
            assert torch.equal(found.expand(values.shape), values)


def test_axes_that_bear_labels_at_either_end_stay() -> None:
    move = Move(((2, 5, 8),), (torch.arange(80).view(2, 5, 8).movedim(1, 0),))
    tokens = torch.ones(1, 5, 1, dtype=torch.int64)
    assert move.slim([tokens], {}).shapes == ((1, 5, 1),)
    assert move.slim([NONE], {0: tokens}).shapes == ((2, 1, 1),)  # axis 1 of the result is axis 0
    slim = move.slim([LABELS], {0: LABELS})
    assert slim.takes([LABELS], {0: LABELS})
    assert not slim.takes([tokens], {})
    assert not slim.takes([LABELS], {0: torch.ones(5, 1, 8)})


class Attention(nn.Module):
    """Over as many positions as there always are."""

    def __init__(self) -> None:
        super().__init__()
        self.values, self.out = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.values(x).view(-1, 6, 2, 4).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(heads, heads, heads)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(-1, 6, 8))
        return out


def test_large_values_have_the_same_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    program = capture_module(Attention(), (torch.randn(2, 6, 8),))

    def told() -> list[object]:
        sites = find_sites(program)
        edits = [{name: labels.tolist() for name, labels in site.edits.items()} for site in sites]
        return [[(s.name, s.scales, s.status, s.reason) for s in sites], edits]

    small = told()
    monkeypatch.setattr(moving, "MAX_KEPT", 40)
    assert told() == small

"""Operations that cannot be taken apart stay, with a note; faults of ours come out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.machine.strict import FallbackError
from awqc.passes.canonical import composites
from awqc.passes.canonicalize import Canonicalize
from awqc.program import Program

ADDCMUL = torch.ops.aten.addcmul.default


class Added(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(x, self.linear(x), x, value=2.0)


@pytest.fixture
def program() -> Program:
    return capture_module(Added(), (torch.randn(3, 4),))


def define(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        raise error

    monkeypatch.setitem(composites.DEFINITIONS, ADDCMUL, broken)


def targets(program: Program) -> set[Any]:
    return {node.target for node in program.graph.nodes}


def test_it_is_taken_apart(program: Program) -> None:
    wanted = program.run(program.example)
    Canonicalize().apply(program)
    program.tidy()
    assert ADDCMUL not in targets(program)
    torch.testing.assert_close(program.run(program.example), wanted)
    assert program.notes == ()


@pytest.mark.fallbacks
def test_what_torch_refuses_stays_with_a_note(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    define(monkeypatch, RuntimeError("no such sizes\nand more"))
    Canonicalize().apply(program)
    assert ADDCMUL in targets(program)
    assert program.notes == (
        "addcmul: aten.addcmul.default: no such sizes; it stays as it is, and may stop a scale",
    )


def test_none_stays_unseen(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    define(monkeypatch, RuntimeError("no such sizes"))
    with pytest.raises(FallbackError, match="no such sizes"):
        Canonicalize().apply(program)


@pytest.mark.fallbacks
@pytest.mark.parametrize("kind", [TypeError, KeyError, IndexError, ValueError])
def test_a_fault_of_ours_comes_out(
    kind: type[Exception], program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    define(monkeypatch, kind("at 3"))
    with pytest.raises(kind, match="at 3"):
        Canonicalize().apply(program)

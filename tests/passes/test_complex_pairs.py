"""Complex numbers become pairs of real ones; what is not known stays as it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import awqc
from awqc.capture.module import capture_module
from awqc.passes.canonicalize import Canonicalize
from awqc.program import Program
from tests.tiny import relative


def canonical(module: nn.Module, *inputs: Tensor) -> Program:
    program = capture_module(module, inputs, dynamic={"x": [1]})
    Canonicalize().apply(program)
    program.tidy()
    return program


def has_complex(program: Program) -> bool:
    values = [node.meta.get("val") for node in program.graph.nodes]
    return any(isinstance(value, Tensor) and value.dtype.is_complex for value in values)


class Rotary(nn.Module):
    """Attention whose positions turn queries and keys, from a table of complex numbers."""

    turns: Tensor

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        half = width // heads // 2
        angles = torch.outer(torch.arange(64.0), 10000.0 ** -(torch.arange(half) / half))
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles))

    def turned(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        turns = self.turns[: x.shape[1]].view(1, x.shape[1], 1, -1)
        return torch.view_as_real(pairs * turns).flatten(3).type_as(x)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).unflatten(-1, (self.heads, -1)) for f in (self.q, self.k, self.v))
        q, k, v = (part.transpose(1, 2) for part in (self.turned(q), self.turned(k), v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = x + self.o(mixed.transpose(1, 2).flatten(2))
        return out


def test_rotary_positions_in_complex_numbers_compile() -> None:
    torch.manual_seed(0)
    module, x = Rotary(), torch.randn(2, 10, 32)
    program = canonical(module, x)
    assert not has_complex(program)
    for length in (10, 17):
        longer = torch.randn(2, length, 32)
        assert relative(program.run({"x": longer})[0], module(longer).detach()) < 1e-6
    compiled = awqc.compile(module, (x,), dynamic={"x": [1]}, formats=("onnx",), effort="fast")
    assert compiled.report["verify"]["comparisons"][0]["exact"]["rel"] < 1e-4
    assert {site["status"] for site in compiled.report["sites"]} == {"folded"}


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda a, b: torch.view_as_real(a * b),
    "product with a real one": lambda a, b: torch.view_as_real(a * b.real),
    "real times complex": lambda a, b: torch.view_as_real(b.imag * a * 0.5),
    "sum and difference": lambda a, b: torch.view_as_real(a + b - a.real),
    "conjugate": lambda a, b: (a * b.conj()).real,
    "exponential": lambda a, b: torch.view_as_real(torch.exp(a * 0.1)),
    "magnitude": lambda a, b: (a * b).abs(),
    "joined": lambda a, b: torch.view_as_real(torch.cat([a, -b], 1).transpose(1, 2)),
    "made of parts": lambda a, b: torch.view_as_real(torch.complex(a.real, b.imag) * a),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_operation_is_that_on_complex_numbers(form: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l = nn.Linear(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            parts = self.l(x).reshape(*x.shape[:-1], 4, 2, 2)
            a, b = (torch.view_as_complex(parts[..., i, :]) for i in range(2))
            return FORMS[form](a, b)

    torch.manual_seed(0)
    module, x = Net(), torch.randn(2, 6, 8)
    program = canonical(module, x)
    assert not has_complex(program)
    assert relative(program.run({"x": x})[0], module(x).detach()) < 1e-6


def test_what_is_not_known_stays() -> None:
    class Mixer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(torch.fft.rfft(x, dim=-1) * 2)

    x = torch.randn(2, 6, 8)
    program = canonical(Mixer(), x)
    assert has_complex(program)
    assert relative(program.run({"x": x})[0], Mixer()(x)) < 1e-6

"""Small models of the shapes that real ones have, with weights from a fixed seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.passes.pipeline import parse_pipeline
from awqc.program import Batch, Program

SEARCHED = "canonicalize,insert-observers,calibrate,search-scales"


class GatedBlock(nn.Module):
    """norm -> silu(gate) * up -> down, with a residual, as in most decoders."""

    def __init__(self, width: int = 32, hidden: int = 64) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        out: Tensor = x + self.down(nn.functional.silu(self.gate(h)) * self.up(h))
        return out


class GroupedAttention(nn.Module):
    """Attention whose key and value heads serve several query heads each."""

    def __init__(self, width: int = 32, heads: int = 4, kv_heads: int = 2) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, width // heads
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, heads * self.size)
        self.k = nn.Linear(width, kv_heads * self.size)
        self.v = nn.Linear(width, kv_heads * self.size)
        self.o = nn.Linear(heads * self.size, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        h = self.norm(x)
        q = self.q(h).view(batch, tokens, self.heads, self.size).transpose(1, 2)
        k = self._repeat(self.k(h).view(batch, tokens, self.kv_heads, self.size))
        v = self._repeat(self.v(h).view(batch, tokens, self.kv_heads, self.size))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = x + self.o(y.transpose(1, 2).reshape(batch, tokens, -1))
        return out

    def _repeat(self, x: Tensor) -> Tensor:
        batch, tokens, heads, size = x.shape
        times = self.heads // heads
        x = x.transpose(1, 2)[:, :, None].expand(batch, heads, times, tokens, size)
        return x.reshape(batch, heads * times, tokens, size)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8)
    )


def encoder_layer(norm_first: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(
        32, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
    )


def conv_net() -> nn.Module:
    """Plain, grouped, depthwise and 1x1 convolutions, a batch norm, and a head."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, groups=2), nn.ReLU(),
        nn.Conv2d(32, 48, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip


MODELS = {
    "mlp": (mlp, (16,)),
    "gated": (GatedBlock, (5, 32)),
    "attention": (GroupedAttention, (5, 32)),
    "prenorm": (lambda: encoder_layer(True), (5, 32)),
    "postnorm": (lambda: encoder_layer(False), (5, 32)),
    "conv": (conv_net, (3, 12, 12)),
}


def model(name: str, seed: int = 0) -> nn.Module:
    """The model in evaluation mode; its norms are not the identity."""
    torch.manual_seed(seed)
    made: nn.Module = MODELS[name][0]().eval()
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2.0)
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 2.0)
    return made


def inputs(name: str, batch: int = 4, seed: int = 1) -> Tensor:
    """Random inputs, with a few channels that are much larger than the others."""
    x = torch.randn(batch, *MODELS[name][1], generator=torch.Generator().manual_seed(seed))
    axis = 1 if name == "conv" else -1
    x = x.movedim(axis, -1)
    x[..., :2] *= 10
    return x.movedim(-1, axis).contiguous()


def capture(module: nn.Module, *example: Tensor) -> Program:
    """``module`` as a program."""
    return capture_module(module, example)


def calibration(program: Program, batches: int = 4) -> list[Batch]:
    """Noisy copies of the program's example."""
    generator = torch.Generator().manual_seed(2)
    return [_noisy(program.example, generator) for _ in range(batches)]


def captured_once(make: Callable[..., Program]) -> Callable[..., Program]:
    """``make``, called once for what it is given: copies of its program.

    What is drawn next is what would be drawn behind a capture.
    """

    @cache
    def first(*given: Any) -> tuple[Program, Tensor]:
        return make(*given), torch.get_rng_state()

    @wraps(make)
    def copied(*given: Any) -> Program:
        program, state = first(*given)
        torch.set_rng_state(state)
        example = {key: value.clone() for key, value in program.example.items()}
        return replace(program.clone(), interface=replace(program.interface, example=example))

    return copied


@captured_once
def captured(name: str) -> Program:
    """The program of a model."""
    return capture(model(name), inputs(name))


def _noisy(batch: Batch, generator: torch.Generator) -> Batch:
    return {
        name: x + 0.3 * x.std() * torch.randn(x.shape, generator=generator)
        if x.is_floating_point()
        else x
        for name, x in batch.items()
    }


def run(program: Program, spec: str, batches: Sequence[Batch] | None = None) -> Program:
    """``program`` after the passes of ``spec``, which edit it.

    ``batches`` are the calibration data; None: `calibration`.
    """
    data = calibration(program) if batches is None else batches
    parse_pipeline(spec, program.findings.facts).run(program, data)
    return program


def relative(now: Tensor, wanted: Tensor) -> float:
    """``|now - wanted| / |wanted|``."""
    difference = now.double() - wanted.double()
    return float(difference.norm() / wanted.double().norm().clamp(min=1e-300))

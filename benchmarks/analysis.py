"""Time what ``awqc explain`` does after capture, on decoders of growing depth.

    python -m benchmarks.analysis            # 1,000, 3,000 and 10,000 nodes

The seconds are of the processor, so that other work on the machine does not count.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.nn import functional

from awqc.capture.module import capture_module
from awqc.channels.analysis import find_sites
from awqc.passes.canonicalize import Canonicalize

WIDTH, HEADS = 64, 4
BLOCKS = (20, 60, 200)


class Block(nn.Module):
    """Attention written by hand, with rotated queries and keys, and a gated feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, tokens, WIDTH)`` to the same."""
        y = self.norm(x)
        q, k, v = (
            part(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        attention = torch.softmax(_rotated(q) @ _rotated(k).transpose(-1, -2), -1)
        x = x + self.o((attention @ v).transpose(1, 2).flatten(2))
        y = self.norm2(x)
        out: Tensor = x + self.down(functional.silu(self.gate(y)) * self.up(y))
        return out


def _rotated(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * 0.5 + torch.cat([-x[..., half:], x[..., :half]], -1) * 0.5


def main() -> None:
    torch.set_num_threads(1)
    for count in BLOCKS:
        model = nn.Sequential(*(Block() for _ in range(count)))
        program = capture_module(model, (torch.randn(2, 6, WIDTH),), copy=False)
        started = time.process_time()
        Canonicalize().apply(program)
        program.tidy()
        sites = find_sites(program)
        seconds = time.process_time() - started
        print(f"{len(program.graph.nodes)} nodes, {len(sites)} sites: {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()

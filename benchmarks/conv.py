"""A convolutional network trained on digits, at few bits a channel: nearest against scaled.

    python -m benchmarks.conv        # trains for a minute, writes benchmarks/results/conv.json

The network is a small residual one with batch norms, the data are scikit-learn's 8 x 8 digits;
a third of them is held out. Every weight has one scale an output channel. Reported on the held
out images: accuracy, agreement with the float model, and the energy of its logits over that of
their change.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from awqc.compiler import compile_graph as compile_model
from awqc.numerics.decibel import decibel
from awqc.numerics.formats.int_grid import Bits

RESULTS = Path(__file__).parent / "results" / "conv.json"
WIDTHS = (16, 32, 64)
BITS: tuple[Bits, ...] = (4, 3)
WAYS: dict[str, dict[str, Any]] = {
    "nearest": {"effort": "fast", "pipeline": "canonicalize,quantize-weights"},
    "scaled": {"effort": "fast"},
    "default": {"effort": "default"},
}


class Block(nn.Module):
    """Two convolutions and the way around them."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm_one, self.norm_two = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        self.around = nn.Conv2d(inside, outside, 1, stride) if inside != outside else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` in and out."""
        y = torch.relu(self.norm_one(self.one(x)))
        return torch.relu(self.norm_two(self.two(y)) + self.around(x))


def network() -> nn.Module:
    """A residual network of three stages with two blocks each."""
    blocks: list[nn.Module] = []
    inside = WIDTHS[0]
    for stage, width in enumerate(WIDTHS):
        blocks += [Block(inside, width, 2 if stage else 1), Block(width, width, 1)]
        inside = width
    stem = [nn.Conv2d(1, WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()]
    return nn.Sequential(
        *stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10)
    )


def data(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, and those held out."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(seed))
    images = torch.tensor(digits.images, dtype=torch.float32)[order].unsqueeze(1) / 8 - 1
    labels = torch.tensor(digits.target)[order]
    cut = len(labels) // 3
    return images[cut:], labels[cut:], images[:cut], labels[:cut]


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Adam with a falling rate."""
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.02)
    steps = epochs * (len(labels) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(labels))
        for part in order[: len(order) // 64 * 64].split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[part]), labels[part]).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def measure(found: Tensor, wanted: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracy, agreement and signal to noise of logits."""
    noise = (found - wanted).double().square().sum()
    sqnr = decibel(float(wanted.double().square().sum()), float(noise))
    return {
        "accuracy": round(float((found.argmax(1) == labels).float().mean()), 4),
        "agreement": round(float((found.argmax(1) == wanted.argmax(1)).float().mean()), 4),
        "sqnr_db": None if sqnr is None else round(sqnr, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    images, labels, held_out, answers = data()
    model = network()
    train(model, images, labels, chosen.epochs)
    with torch.no_grad():
        wanted = model(held_out)
    results: dict[str, Any] = {"float": measure(wanted, wanted, answers)}
    for bits in BITS:
        for name, way in WAYS.items():
            compiled = compile_model(
                model,
                (images[:8],),
                [(part,) for part in images[:512].split(64)],
                bits=bits,
                head_bits=bits,
                group_size=-1,
                formats=("onnx",),
                runtime_scales="never",
                **way,
            )
            with torch.no_grad():
                results[f"{bits} bits, {name}"] = measure(
                    compiled.graph_module(held_out), wanted, answers
                )
            statuses = [site["status"] for site in compiled.report["sites"]]
            results[f"{bits} bits, {name}"]["folded"] = statuses.count("folded")
            print(f"{bits} bits, {name}", results[f"{bits} bits, {name}"], flush=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

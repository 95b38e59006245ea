"""Damage done to the compiler on purpose, one part at a time; each must end a compile.

    python -m tests.verify.sabotage            # writes its section of docs/verification.md

Every damage has a size: a relative error of numbers, or the share of codes or rows that are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import awqc.export.formats as formats
import awqc.export.onnx_codes as onnx_codes
import awqc.export.ort_weights as ort_weights
import awqc.numerics.formats.int_grid as int_grid
from awqc.capture.module import capture_module
from awqc.compiler import compile_graph
from awqc.data.calibration import CalibrationData
from awqc.errors import AwqcError
from awqc.graph.sites import scale_factor
from awqc.program import Batch, Program
from tests.tiny import captured, inputs
from tests.verification_page import write_section

HEADING = "Damage done on purpose"
SIZES = (0.1, 0.01, 0.001)
Patch = pytest.MonkeyPatch


class TinyDecoder(nn.Module):
    """Attention over a past that comes in and, one step longer, goes out."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.head = nn.Linear(width, 48)

    def forward(self, x: Tensor, past_key: Tensor, past_value: Tensor) -> tuple[Tensor, ...]:
        h = self.norm(x)
        key = torch.cat([past_key, self.k(h)], dim=1)
        value = torch.cat([past_value, self.v(h)], dim=1)
        mixed = nn.functional.scaled_dot_product_attention(self.q(h), key, value)
        return self.head(x + self.o(mixed)), key, value


class TwoOutputs(nn.Module):
    """A large output under a constant, and a small one."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.body = nn.LayerNorm(32), nn.Linear(32, 64)
        self.large, self.small = nn.Linear(64, 16), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.body(self.norm(x)))
        return self.large(h) * 100 + 1000, self.small(h) * 0.01


def decoder() -> tuple[Program, list[Batch]]:
    """The decoder, and batches with a real past."""
    torch.manual_seed(0)
    batches = [
        {"x": torch.randn(2, 5, 32), "past_key": torch.randn(2, 3, 32),
         "past_value": torch.randn(2, 3, 32)}
        for _ in range(6)
    ]  # fmt: skip
    pairs = (("past_key", "key"), ("past_value", "value"))
    program = capture_module(
        TinyDecoder(), batches[0], states=pairs, output_names=("logits", "key", "value")
    )
    return program, batches


def plain(program: Program, *batches: Tensor) -> tuple[Program, list[Batch]]:
    return program, [{program.inputs[0].name: batch} for batch in batches]


def two_outputs() -> tuple[Program, list[Batch]]:
    torch.manual_seed(0)
    batches = [torch.randn(8, 32) for _ in range(6)]
    return plain(capture_module(TwoOutputs(), (batches[0],)), *batches)


SUBJECTS: dict[str, Callable[[], tuple[Program, list[Batch]]]] = {
    "MLP": lambda: plain(captured("mlp"), *(inputs("mlp", seed=seed) for seed in range(6))),
    "conv net": lambda: plain(captured("conv"), *(inputs("conv", seed=seed) for seed in range(6))),
    "decoder": decoder,
    "two outputs": two_outputs,
}


def exporter(form: str, alter: Callable[[Tensor, float], Tensor]) -> Callable[[Patch, float], None]:
    """The exporter of ``form`` writes other scales for one weight."""

    def damage(patch: Patch, size: float) -> None:
        write = formats.FORMATS[form]

        def wrong(program: Program, *rest: Any) -> Path:
            broken, held = program.clone(), program.findings.quantized
            name = [*held][-1]
            scale = alter(held[name].tensors["scale"].clone(), size)
            broken.set_weight(f"{name}.scale", scale)
            tensors = {**held[name].tensors, "scale": scale}
            broken.learn(quantized={**held, name: replace(held[name], tensors=tensors)})
            return write(broken, *rest)

        patch.setitem(formats.FORMATS, form, replace(write, write=wrong))

    return damage


def all_scales(scale: Tensor, size: float) -> Tensor:
    return scale * (1 + size)


def one_channel(scale: Tensor, size: float) -> Tensor:
    scale[0] *= 1 + size
    return scale


def packing(module: Any) -> Callable[[Patch, float], None]:
    """What ``module`` packs has other codes for a share of the weights, one at least."""

    def damage(patch: Patch, size: float) -> None:
        pack = module.pack

        def wrong(codes: Tensor, bits: int) -> Tensor:
            flat = codes.flatten().clone()
            count = math.ceil(size * flat.numel())
            chosen = torch.randperm(flat.numel(), generator=torch.Generator().manual_seed(0))[
                :count
            ]
            flat[chosen] = flat[chosen] ^ (1 << (bits - 1))
            packed: Tensor = pack(flat.reshape(codes.shape), bits)
            return packed

        patch.setattr(module, "pack", wrong)

    return damage


def folding(patch: Patch, size: float) -> None:
    """Each fold gets the factor of one channel wrong."""
    factor_of = scale_factor

    def wrong(labels: Tensor, scale: Tensor) -> Tensor:
        factor = factor_of(labels, scale).clone()
        factor.view(-1)[0] *= 1 + size
        return factor

    patch.setattr("awqc.passes.fold_scales.scale_factor", wrong)


def permuting(patch: Patch, size: float) -> None:
    """Rounding puts a share of the rows of each weight in another order, two at least."""
    encode = int_grid.IntGrid.encode

    def wrong(self: Any, steps: Tensor, grid: Any) -> Any:
        count = max(2, math.ceil(size * len(steps)))
        order = torch.arange(len(steps))
        order[:count] = order[:count].roll(1)
        return encode(self, steps[order], grid)

    patch.setattr(int_grid.IntGrid, "encode", wrong)


DAMAGES: dict[str, tuple[Callable[[Patch, float], None], str, str]] = {
    **{
        f"{form} exporter: {what}": (exporter(form, alter), form, "relative error")
        for form in ("onnx", "ort", "pt2")
        for what, alter in (("scales of a weight", all_scales), ("scale of a channel", one_channel))
    },
    "onnx exporter: packed codes": (packing(onnx_codes), "onnx", "share of codes"),
    "ort exporter: packed codes": (packing(ort_weights), "ort", "share of codes"),
    "folds: factor of a channel": (folding, "pt2", "relative error"),
    "rounding: codes": (packing(int_grid), "pt2", "share of codes"),
    "rounding: rows in another order": (permuting, "pt2", "share of rows"),
}
"""By name: what does it, the format that is compiled to, and what its size means."""


@cache
def subject(name: str) -> tuple[Program, list[Batch]]:
    """A captured model, to be cloned, and its data."""
    return SUBJECTS[name]()


def caught(model: str, name: str, size: float) -> str | None:
    """What ended the compile of ``model`` under a damage, or None where it went through."""
    program, batches = subject(model)
    data = CalibrationData(tuple(batches[:4]), tuple(batches[4:]), "random data")
    damage, form, _ = DAMAGES[name]
    with pytest.MonkeyPatch.context() as patch:
        damage(patch, size)
        try:
            compile_graph(
                program.clone(), calib=data, formats=(form,), provider="cpu", group_size=32
            )
        except AwqcError as error:
            return f"{type(error).__name__}: {error}"
    return None


TITLE = """Written by `python -m tests.verify.sabotage`; do not edit. Each part of the compiler
is damaged in turn, in four models of a few thousand weights, in three sizes. A compile that goes
through has not seen the damage. How outputs are compared is in
[decision 12](decisions/0012-verification-fails-closed.md).

The size is a relative error of numbers, or the share of codes or rows that are wrong (one code and
two rows at least). Damage to an exporter or to a fold is compared with a program that is right.
Rounding makes the quantized model itself, so that nothing beside it shows a fault of it: each row
is measured against the nearest values of its own grid (`awqc/weights/rounding_proof.py`).

| damage | size means | """


def main() -> None:
    """Write the page."""
    rows = []
    for name, (_, _, meaning) in DAMAGES.items():
        cells = []
        for model in SUBJECTS:
            missed = [size for size in SIZES if caught(model, name, size) is None]
            cells.append("all" if not missed else f"not {', '.join(f'{s:.1%}' for s in missed)}")
            print(name, model, cells[-1], flush=True)  # noqa: T201 - progress of a script
        rows.append(f"| {name} | {meaning} | {' | '.join(cells)} |")
    sizes = ", ".join(f"{size:.1%}" for size in SIZES)
    head = f"{TITLE}{' | '.join(SUBJECTS)} |\n|---|---|{'---|' * len(SUBJECTS)}\n"
    write_section(HEADING, f"{head}{chr(10).join(rows)}\n\nCaught of {sizes}.")


if __name__ == "__main__":
    main()

"""The pass ``allocate-bits``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from awqc.errors import UsageError
from awqc.executor.run import NO_DATA, Run
from awqc.findings import Allocation, Decisions, Fact, Facts
from awqc.graph.linears import Linear, find_linears
from awqc.machine.progress import track
from awqc.machine.strict import fall_back
from awqc.numerics.formats.base import WeightFormat
from awqc.numerics.formats.int_grid import BITS
from awqc.numerics.quantizing import fake_quantize, quantize
from awqc.numerics.request import WIDTHS, Cut
from awqc.passes.base import Change, Pass
from awqc.program import Batch, Program
from awqc.weights.decisions import decide
from awqc.weights.knapsack import Item, allocate, curve, totals
from awqc.weights.rounding_error import measure
from awqc.weights.tuning.derivatives import why_no_derivative
from awqc.weights.tuning.graph import WeightFunction, weight_reads
from awqc.weights.tuning.objective import distance

TINY = 1e-30


@dataclass(frozen=True)
class AllocateBits(Pass):
    """Choose bits and groups for each weight, so that a budget buys the least predicted loss.

        before:  quantize-weights cuts every weight alike
        after:   it cuts each weight in its own way

    With all weights at the smallest of ``choices``, the gradient ``g`` of the distance from
    the float model's outputs is taken on ``batches`` calibration batches; a weight's error
    ``d`` then accounts for ``g . d / 2`` of the distance, since that is quadratic near the
    float model. Other widths change it as they change the error of the weight's own product on
    the calibration data. Where an operation has no derivative, that error alone counts.
    The choice is a knapsack, solved by dynamic programming. Groups are a part of it where they are
    ``auto``.
    Where formats are asked for by name, a width is the format of GGUF with as many bits.
    Options: ``avg-bits`` of the weights that products read, scales and zero points counted,
    tables, and heads of their own width, not; or ``budget``, bytes of all tensors together.
    Requires: calibrate.  Refuses: budgets that the smallest width exceeds.
    Source: Hessian-weighted bit allocation as in HAWQ-V2, arXiv 1911.03852, with the measured
    gradient in place of a trace.
    """

    avg_bits: float = 0.0
    budget: int = 0
    choices: tuple[str, ...] = ("4", "8")
    batches: int = 4
    name: ClassVar[str] = "allocate-bits"
    keeps_output: ClassVar[bool] = True
    needs: ClassVar[Facts] = frozenset({Fact.STATISTICS})
    bars: ClassVar[Facts] = frozenset({Fact.OBSERVERS, Fact.CODES, Fact.HALF})

    def __post_init__(self) -> None:
        widths = {str(bits) for bits in WIDTHS}
        if not self.choices or not set(self.choices) <= widths:
            raise UsageError(
                f"allocate-bits{{choices={'|'.join(self.choices)}}}: choose some of "
                + ", ".join(sorted(widths))
            )

    def apply(self, program: Program, run: Run = NO_DATA) -> list[Change]:
        """Fill ``program.findings.allocation``; weights do not change."""
        if (self.avg_bits > 0) == (self.budget > 0):
            raise UsageError("allocate-bits: give one of avg-bits and budget, a positive number")
        decisions = decide(program)
        linears = {
            linear.weight_name: linear
            for linear in find_linears(program.graph)
            if _has_choice(program, decisions, linear)
        }
        if not linears or not run.batches:
            raise UsageError("allocate-bits needs calibration data and weights to quantize")
        items = self._items(program, run.batches, decisions, linears)
        allowed = self.budget - _other_bytes(program, decisions, linears)
        if self.avg_bits:
            elements = sum(program.weight(name).numel() for name in linears)
            allowed = int(self.avg_bits * elements / 8)
        cuts = allocate(items, allowed)
        size, loss = totals(items, cuts)
        given = program.findings.allocation
        formats = given.formats if given else {}
        widths = {name: cut.width for name, cut in cuts.items()}
        groups = {name: cut.group_size for name, cut in cuts.items() if cut.group_size is not None}
        program.learn(
            allocation=Allocation(widths, tuple(curve(items)), size, loss, formats, groups)
        )
        changes = [Change(name, _told(cut)) for name, cut in cuts.items()]
        return [*changes, Change("all", f"{size} bytes, predicted distance {loss:.4g}")]

    def _items(
        self,
        program: Program,
        batches: Sequence[Batch],
        decisions: Decisions,
        linears: Mapping[str, Linear],
    ) -> list[Item]:
        """Sizes and predicted losses of every weight, cut in each way."""
        widths = sorted({int(choice) for choice in self.choices})
        cuts = {
            name: program.quantization.choices(decisions.formats[name], widths, linear.columns)
            for name, linear in linears.items()
        }
        lowest = {name: next(iter(options)) for name, options in cuts.items()}
        coarse = {name: cuts[name][cut] for name, cut in lowest.items()}
        try:
            shares = _shares(program, coarse, batches[: self.batches])
        except RuntimeError as error:
            reason = why_no_derivative(error)
            if reason is None:
                raise
            note = "widths are chosen by the error of each weight's own product alone"
            fall_back(program.tell, f"{note}: {reason}", error)
            shares = {}
        items = []
        for name, linear in track(linears.items(), "allocate bits", len(linears)):
            noise = {cut: _noise(program, linear, form) for cut, form in cuts[name].items()}
            share, coarsest = shares.get(name, noise[lowest[name]]), max(noise[lowest[name]], TINY)
            size = {
                cut: form.nbytes(linear.rows, linear.columns, program.scale_dtype)
                for cut, form in cuts[name].items()
            }
            ways = sorted(size, key=size.__getitem__)
            items.append(
                Item(
                    name,
                    tuple(ways),
                    tuple(size[cut] for cut in ways),
                    tuple(share * noise[cut] / coarsest for cut in ways),
                )
            )
        return items


def _told(cut: Cut) -> str:
    """For a change."""
    groups = "" if cut.group_size is None else f", groups of {cut.group_size}"
    return f"{cut.width} bits{groups}"


def _has_choice(program: Program, decisions: Decisions, linear: Linear) -> bool:
    """Whether the width of the weight is open: not a table's, nor one asked for on its own."""
    name = linear.weight_name
    if name not in decisions.formats or name in decisions.tables or name in program.shared:
        return False
    if (given := program.findings.allocation) is not None and name in given.formats:
        return False
    return bool(program.quantization.choices(decisions.formats[name], BITS, linear.columns))


def _other_bytes(program: Program, decisions: Decisions, linears: Mapping[str, Linear]) -> int:
    """What the tensors without a choice take."""
    total = 0
    for name, value in program.parameters().items():
        how = decisions.formats.get(name)
        if name in linears:
            continue
        if how is None:
            total += value.numel() * min(value.dtype.itemsize, program.scale_dtype.itemsize)
        else:
            rows = value.shape[0]
            columns = value.numel() // rows
            total += how.nbytes(rows, columns, program.scale_dtype)
    return total


def _shares(
    program: Program, cuts: Mapping[str, WeightFormat], batches: Sequence[Batch]
) -> dict[str, float]:
    """How much of the distance from the float model each weight's rounding causes."""
    reads = weight_reads(program)
    function = WeightFunction(program, {name: reads[name] for name in cuts})
    floats = {name: program.weight(name).float() for name in cuts}
    rounded = {
        name: fake_quantize(weight.flatten(1), cuts[name], program.scale_dtype)
        .reshape(weight.shape)
        .requires_grad_()
        for name, weight in floats.items()
    }
    for batch in track(batches, "sensitivity"):
        with torch.no_grad():
            wanted = function(batch, floats)
        loss = distance(program, batch, function(batch, rounded), wanted)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types
    shares = {}
    for name, weight in rounded.items():
        error = weight.detach() - floats[name]
        slope = 0.0 if weight.grad is None else float((weight.grad * error).sum())
        shares[name] = max(slope, 0.0) / 2 / len(batches)
    return shares


def _noise(program: Program, linear: Linear, cut: WeightFormat) -> float:
    """Error of the product's output over the calibration data, as a share of its energy."""
    weight = program.weight(linear.weight_name)
    quantized = quantize(weight, weight.shape[0], cut, program.scale_dtype)
    error = measure(program, linear.weight_name, linear, quantized)
    if error.output_sqnr_db is None:
        return error.weight**2
    return float(10 ** (-error.output_sqnr_db / 10))

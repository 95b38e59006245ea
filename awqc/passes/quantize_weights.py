"""The pass ``quantize-weights``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.fx import Node

from awqc.decisions import decide
from awqc.linears import find_linears
from awqc.passes.base import Change
from awqc.program import Program, WeightError
from awqc.progress import track
from awqc.qparams import Granularity, QuantizedWeight, dequantize_packed, quantize
from awqc.quantization import QuantizationSpec
from awqc.threads import parallel_map
from awqc.weight_error import measure


@dataclass(frozen=True)
class QuantizeWeights(QuantizationSpec):
    """Replace each weight by codes, scales and zero points, and a call that dequantizes them.

        before:  linear(x, W)
        after:   linear(x, dequantize(W.packed, W.scale, W.zero_point))

    Embedding tables get 8 bits and a scale a row, and so does a head that shares its table.
    Options: ``bits``, ``group-size``, ``symmetric``, ``exclude``, ``head-bits`` and
    ``embed-bits`` (0: left in float); the search reads them too.
    Refuses: weights that something else reads as well, and depthwise convolutions.
    """

    name: ClassVar[str] = "quantize-weights"
    keeps_output: ClassVar[bool] = False

    def apply(self, program: Program) -> list[Change]:
        """Quantize every weight that is not refused."""
        decisions = decide(program, self)
        program.skipped.update(decisions.refused)
        changes = [Change(name, why, refused=True) for name, why in decisions.refused.items()]
        reads = {str(n.target): n for n in program.graph.nodes if n.op == "get_attr"}
        linears = {linear.weight_name: linear for linear in find_linears(program.graph)}

        def run(item: tuple[str, Granularity]) -> tuple[QuantizedWeight, WeightError]:
            name, granularity = item
            weight = program.weight(name)
            quantized = quantize(weight, weight.shape[0], granularity, program.scale_dtype)
            return quantized, measure(program, name, linears.get(name), quantized)

        items = list(decisions.granularity.items())
        made = track(parallel_map(run, items), "quantize weights", len(items))
        for (name, granularity), (quantized, error) in zip(items, made, strict=True):
            program.quantized[name], program.errors[name] = quantized, error
            replace_weight(program, reads[name], quantized)
            changes.append(
                Change(name, f"{granularity.bits} bits, group {granularity.group_size}")
            )
        return changes


def replace_weight(program: Program, weight: Node, quantized: QuantizedWeight) -> None:
    """Let the readers of ``weight`` read the dequantized codes instead.

    The call stands just before the first of them: the dequantized weight lives as briefly as
    possible.
    """
    readers = set(weight.users)
    anchor = next(iter(readers))
    if len(readers) > 1:
        anchor = next(node for node in program.graph.nodes if node in readers)
    name, granularity = str(weight.target), quantized.granularity
    packed = quantized.packed
    reads = [
        program.add_weight(f"{name}.packed", packed, anchor),
        program.add_weight(f"{name}.scale", quantized.scale, anchor),
        None
        if quantized.zero_point is None
        else program.add_weight(f"{name}.zero_point", quantized.zero_point, anchor),
    ]
    call = program.call_op(
        anchor,
        dequantize_packed,
        *reads,
        list(quantized.shape),
        granularity.bits,
        granularity.group_size,
    )
    weight.replace_all_uses_with(call)
    program.graph.erase_node(weight)

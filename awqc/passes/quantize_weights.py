"""The pass ``quantize-weights``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from awqc.linears import Linear, find_linears
from awqc.passes.base import Change
from awqc.program import Program
from awqc.qparams import QuantizedWeight, dequantize_packed, pack, quantize
from awqc.quantization import QuantizationSpec


@dataclass(frozen=True)
class QuantizeWeights(QuantizationSpec):
    """Replace each weight by codes, scales and zero points, and a call that dequantizes them.

        before:  linear(x, W)
        after:   linear(x, dequantize(W.packed, W.scale, W.zero_point))

    Options: ``bits``, ``group-size``, ``symmetric``, ``exclude``; the search reads them too.
    Refuses: weights that something else reads as well, and depthwise convolutions.
    """

    name: ClassVar[str] = "quantize-weights"
    keeps_output: ClassVar[bool] = False

    def apply(self, program: Program) -> list[Change]:
        """Quantize every weight that is not refused."""
        changes = []
        done: set[str] = set()
        for linear in find_linears(program.graph):
            name = linear.weight_name
            if name in done:
                continue
            done.add(name)
            reason = self.refusal(linear)
            if reason is not None:
                program.skipped[name] = reason
                changes.append(Change(name, reason, refused=True))
                continue
            granularity = self.granularity(linear)
            quantized = quantize(
                program.weight(name), linear.rows, granularity, program.scale_dtype
            )
            program.quantized[name] = quantized
            replace_weight(program, linear, quantized)
            changes.append(
                Change(name, f"{granularity.bits} bits, group {granularity.group_size}")
            )
        return changes


def replace_weight(program: Program, linear: Linear, quantized: QuantizedWeight) -> None:
    """Let the readers of ``linear``'s weight read the dequantized codes instead."""
    name, granularity = linear.weight_name, quantized.granularity
    packed = pack(quantized.codes, granularity.storage_bits)
    # Close to the first reader, so that the dequantized weight lives as briefly as possible.
    anchor = next(node for node in program.graph.nodes if linear.weight in node.all_input_nodes)
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
        like=linear.node,
    )
    linear.weight.replace_all_uses_with(call)
    program.graph.erase_node(linear.weight)

"""What rounding one weight costs, on calibration statistics alone."""

from __future__ import annotations

from awqc.decibel import decibel
from awqc.linears import Linear
from awqc.moments import column_scale, energy
from awqc.program import Program, WeightError
from awqc.qparams import QuantizedWeight


def measure(
    program: Program, name: str, linear: Linear | None, quantized: QuantizedWeight
) -> WeightError:
    """The error of ``quantized`` in place of the float weight ``name``.

    ``linear`` is a product that reads the weight; None for an embedding table.
    """
    weight = program.weight(name).float()
    error = quantized.dequantize().float() - weight
    size = float(weight.norm())
    output = None
    statistics = None if linear is None else program.statistics.get(linear.node.name)
    if linear is not None and statistics is not None:
        scale = column_scale(program, linear)
        signal, noise = (
            energy(statistics, linear.matrix(matrix), scale) for matrix in (weight, error)
        )
        output = decibel(signal, noise)
    return WeightError(float(error.norm()) / size if size > 0 else 0.0, output)

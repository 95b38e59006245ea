"""Why an exporter that stores whole numbers with a scale and a zero point refuses a weight."""

from __future__ import annotations

from awqc.numerics.formats.base import WeightFormat
from awqc.numerics.formats.int_grid import IntGrid


def why_not_onnx(form: WeightFormat) -> str | None:
    """Why ONNX has no node for weights in ``form``, or None if it has."""
    if isinstance(form, IntGrid):
        return None
    return (
        f"DequantizeLinear takes whole numbers with one scale and one zero point a block, and "
        f"{form} is none of them"
    )


def why_not_ort(form: WeightFormat) -> str | None:
    """Why onnxruntime has no operation for weights in ``form``, or None if it has."""
    if isinstance(form, IntGrid):
        return None
    return (
        f"MatMulNBits takes whole numbers with one scale and one zero point a block, and {form} "
        "is none of them"
    )


def int_grid(form: WeightFormat) -> IntGrid:
    """``form``, of which an exporter has asked why not."""
    assert isinstance(form, IntGrid), form
    return form

"""Call torch's translator to ONNX with a table of its functions that is made once.

``torch.onnx.export`` makes the table anew for each model, by reading the source text of 500
functions of onnxscript: more than a small model's own translation takes. The call below is the
one that it makes for an `ExportedProgram`, with the table that it would make.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from torch.export import ExportedProgram
from torch.onnx import ONNXProgram
from torch.onnx._internal.exporter import _core
from torch.onnx._internal.exporter._registration import ONNXRegistry

from awqc.export.type_promotion import values_known
from awqc.machine.process import quiet_libraries


@cache
def _functions(opset: int) -> ONNXRegistry:
    """What operations become in ``opset``; nobody may add to it."""
    return ONNXRegistry.from_torchlib(opset)


def translate(
    exported: ExportedProgram, opset: int, inputs: Sequence[str], outputs: Sequence[str]
) -> ONNXProgram:
    """``exported`` in the operations of ``opset``, as they come, with the names given.

    Raises:
        torch.onnx.OnnxExporterError: an operation has no ONNX form.
    """
    with quiet_libraries(), values_known():
        return _core.export(
            exported,
            registry=_functions(opset),
            input_names=inputs,
            output_names=outputs,
            opset_version=opset,
            optimize=False,
            verbose=False,
        )

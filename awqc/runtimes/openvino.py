"""OpenVINO: ``model.onnx`` on the CPU.

Its package is imported when a model is opened, and its telemetry is not: `import openvino` else
sends an event to its vendor and writes a folder into the user's home.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.helper import tensor_dtype_to_np_dtype
from torch import Tensor

from awqc.errors import UsageError
from awqc.kv_cache import state_pairs
from awqc.program import Batch
from awqc.runtimes.base import ArraySpec, Kernels, failing_as, find_form, needed
from awqc.runtimes.ort_fusion import dequantized_weights
from awqc.runtimes.session_file import MODEL
from awqc.runtimes.torch_values import input_spec, to_numpy

FORMS = {"onnx": MODEL}
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""By default OpenVINO takes bfloat16 where the CPU has it, and may round activations to 8 bits."""
EXACT_ADVICE = " and ".join(f"set {key} to {value}" for key, value in EXACT.items())
CODES = frozenset({"u2", "u3", "u4", "u8", "i4", "i8"})
FAILURES = ("Initialization", "General", "NotImplemented", "OpConversion", "OpValidation")
"""What its reader of ONNX raises: classes without a base of their own."""
_LAYOUT = frozenset({"Transpose", "Reshape", "Reorder"})
TELEMETRY = "openvino_telemetry"


class OpenVinoModel:
    """An ONNX model that runs on torch tensors.

    Attributes:
        inputs: what it takes; dynamic axes by the names that the file has.
        outputs: names of the outputs, in order.
        states: pairs (input, output) of a key/value cache, by the ecosystem's names.
        provider: ``cpu``.
    """

    provider = "cpu"

    def __init__(self, file: Path, settings: dict[str, str]) -> None:
        """Compile ``file`` for the CPU.

        Raises:
            UsageError: OpenVINO is not installed.
            VerificationError: OpenVINO does not load the model.
        """
        openvino = import_openvino()
        frontend = openvino.frontend
        failures = [getattr(frontend, f"{name}Failure") for name in FAILURES]
        with failing_as(f"{file.name}: openvino does not load it", RuntimeError, *failures):
            # Core.read_model would try all that it knows on a damaged file.
            reader = frontend.FrontEndManager().load_by_framework("onnx")
            model = reader.convert(reader.load(str(file)))
            self._compiled = openvino.Core().compile_model(model, "CPU", settings)
        self._graph = onnx.load(file, load_external_data=False).graph
        self.inputs = tuple(input_spec(_spec(value)) for value in self._graph.input)
        self.outputs = tuple(str(value.name) for value in self._graph.output)
        self.states = state_pairs((spec.name for spec in self.inputs), self.outputs)

    def run(self, batch: Batch, only: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        """Outputs in order; of ``only`` some, if they are named."""
        # Of an input that is missing, OpenVINO would take whatever lies in memory.
        taken = needed("openvino", self.inputs, batch)
        feeds = {name: to_numpy(value) for name, value in taken.items()}
        with failing_as("openvino cannot run the model", RuntimeError):
            values = self._compiled(feeds)
        found = {name: values[index] for index, name in enumerate(self.outputs)}
        return tuple(torch.from_numpy(np.array(found[name])) for name in (only or self.outputs))

    def kernels(self) -> Kernels:
        """Kernels that read codes, named as OpenVINO does once the model has run."""
        weights = dequantized_weights(self._graph)
        stored = {tensor.name for tensor in self._graph.initializer}
        kernels: dict[str, str] = {}
        for constant in self._compiled.get_runtime_model().get_ordered_ops():
            if constant.friendly_name not in stored or _type(constant) not in CODES:
                continue
            reading = {op.friendly_name: op for op in _readers(constant)}
            if any(_told(op, "layerType") == "Convert" for op in reading.values()):
                continue
            weights.pop(constant.friendly_name, None)
            kernels |= {name: _told(op, "primitiveType") for name, op in reading.items()}
        unfused, other = ([name for name, product in weights.items() if product is kind]
                          for kind in (True, False))  # fmt: skip
        precision = " and ".join(sorted(set(kernels.values()))) or "as the model"
        return Kernels(len(kernels), tuple(unfused), tuple(other), precision)


def lacks() -> str | None:
    """That the package is missing, or fails to be imported."""
    try:
        import_openvino()
    except UsageError as error:
        return str(error)
    return None


def open_model(file: Path, *, exact: bool, provider: str = "cpu") -> OpenVinoModel:
    """As in `awqc.runtimes.base.Runtime`; always on the CPU; exact is in float32."""
    return OpenVinoModel(file, EXACT if exact else {})


def load(path: Path, provider: str = "auto", accuracy_level: int | None = None) -> OpenVinoModel:
    """Open the ``model.onnx`` of a folder; see `awqc.load`."""
    if provider == "cuda" or accuracy_level not in (None, 1):
        raise UsageError(
            "openvino runs on the CPU: leave provider out, and give accuracy level 1 (float32) "
            "or none (OpenVINO's own choice)"
        )
    return open_model(find_form(path, FORMS, "openvino"), exact=accuracy_level == 1)


def import_openvino() -> Any:
    """The package, without its telemetry.

    Raises:
        UsageError: it is not installed, or cannot be imported.
    """
    try:
        with _absent(TELEMETRY):
            import openvino
            import openvino.frontend
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "openvino"
        found = "is not installed" if missing else f"cannot be imported ({error})"
        raise UsageError(f"the package openvino {found}: pip install 'awqc[openvino]'") from error
    return openvino


@contextmanager
def _absent(module: str) -> Iterator[None]:
    """Let ``module`` be missing for what is imported meanwhile, unless it is imported already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # Python's mark of what is missing
    try:
        yield
    finally:
        del sys.modules[module]


def _spec(value: onnx.ValueInfoProto) -> ArraySpec:
    kind = value.type.tensor_type
    shape = tuple(str(dim.dim_param) or int(dim.dim_value) for dim in kind.shape.dim)
    return ArraySpec(str(value.name), str(tensor_dtype_to_np_dtype(kind.elem_type)), shape)


def _told(operation: Any, key: str) -> str:
    """What OpenVINO tells of an operation of a compiled model."""
    return str(operation.get_rt_info()[key].astype(str))


def _type(operation: Any) -> str:
    return str(operation.output(0).get_element_type().get_type_name())


def _readers(operation: Any) -> Iterator[Any]:
    """The operations that read ``operation``, directly or through a change of layout."""
    for target in operation.output(0).get_target_inputs():
        reader = target.get_node()
        if _told(reader, "layerType") in _LAYOUT:
            yield from _readers(reader)
        else:
            yield reader

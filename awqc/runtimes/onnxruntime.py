"""onnxruntime sessions: on the provider that was asked for, never silently on another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from awqc.errors import UsageError, VerificationError, spelled
from awqc.kv_cache import state_pairs
from awqc.program import Batch, InputSpec
from awqc.runtimes.session_file import ORT_ERRORS, find_model, open_session
from awqc.runtimes.session_settings import Settings, read_settings

if TYPE_CHECKING:
    from awqc.runtimes.torch.torch_model import TorchModel

Provider = Literal["auto", "cuda", "cpu"]
Backend = Literal["onnxruntime", "torch-int4"]
BACKENDS: tuple[Backend, ...] = ("onnxruntime", "torch-int4")
PROVIDERS: tuple[Provider, ...] = ("auto", "cuda", "cpu")
EXACT, DEFAULT = "1", None
DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(bfloat16)": torch.bfloat16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(int16)": torch.int16,
    "tensor(int8)": torch.int8,
    "tensor(uint8)": torch.uint8,
    "tensor(bool)": torch.bool,
}


class Session:
    """An ONNX model that runs on torch tensors.

    Attributes:
        provider: ``cuda`` or ``cpu``, where it really runs.
        inputs: what it takes; dynamic axes by name.
        outputs: names of the outputs, in order.
    """

    def __init__(
        self,
        path: Path,
        provider: Provider = "auto",
        level: str | None = DEFAULT,
        settings: Settings | None = None,
    ) -> None:
        """Load ``path``.

        Args:
            path: the model.
            provider: ``auto`` takes CUDA where onnxruntime can really use it.
            level: accuracy level of low-bit products: `EXACT` computes in float32,
                `DEFAULT` is what a session does that sets nothing (int8 activations), or
                what the model says.
            settings: what else the session sets.

        Raises:
            UsageError: CUDA was asked for and does not work here.
            VerificationError: onnxruntime does not load the model.
        """
        self.provider = resolve_provider(provider)
        try:
            self._session = open_session(path, self.provider, settings, level=level)
        except ORT_ERRORS as error:
            reason = str(error).strip().splitlines()[0]
            raise VerificationError(
                f"{path.name}: onnxruntime does not load it: {reason}"
            ) from error
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    @property
    def states(self) -> tuple[tuple[str, str], ...]:
        """Pairs (input, output) of a key/value cache, by the ecosystem's names."""
        return state_pairs((spec.name for spec in self.inputs), self.outputs)

    def run(self, batch: Batch, only: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        """Outputs in order, on the CPU; of ``only`` some, if they are named."""
        known = {spec.name for spec in self.inputs}
        feeds = {name: to_numpy(batch[name]) for name in batch if name in known}
        try:
            values = self._session.run(list(only or self.outputs), feeds)
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise VerificationError(f"onnxruntime cannot run the model: {reason}") from error
        return tuple(torch.from_numpy(np.array(value)) for value in values)


def _spec(value: Any) -> InputSpec:
    """An input of a session as a spec."""
    shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    return InputSpec(value.name, DTYPES[value.type], shape)


def to_numpy(value: Tensor) -> Any:
    """As onnxruntime takes it; bfloat16, which NumPy lacks, becomes float32."""
    if value.dtype == torch.bfloat16:
        value = value.float()
    return value.detach().cpu().contiguous().numpy()


def resolve_provider(provider: str) -> str:
    """``cuda`` or ``cpu``.

    Raises:
        UsageError: ``cuda`` was asked for and does not work here, with the reason.
    """
    if provider not in PROVIDERS:
        raise UsageError(f"provider {provider!r} is unknown; choose one of {', '.join(PROVIDERS)}")
    if provider == "cpu":
        return "cpu"
    reason = why_no_cuda()
    if reason is None:
        return "cuda"
    if provider == "cuda":
        raise UsageError(f"{spelled('provider', provider)}: {reason}; use cpu or auto")
    return "cpu"


def why_no_cuda() -> str | None:
    """Why onnxruntime cannot run on CUDA here, or None if a small model really did."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this onnxruntime was built without CUDA (install onnxruntime-gpu)"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device on this machine"
    ort.preload_dlls()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        _tiny_model(), options, providers=["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    if session.get_providers()[0] != "CUDAExecutionProvider":
        return "onnxruntime could not load its CUDA libraries (CUDA and cuDNN of its version)"
    return None


def _tiny_model() -> bytes:
    """``y = x + x`` on one float."""
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    add = helper.make_node("Add", ["x", "x"], ["y"])
    graph = helper.make_graph([add], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


@overload
def load(
    path: str | Path,
    provider: Provider = ...,
    accuracy_level: int | None = ...,
    *,
    backend: Literal["onnxruntime"] = ...,
) -> Session: ...


@overload
def load(
    path: str | Path,
    provider: Provider = ...,
    accuracy_level: int | None = ...,
    *,
    backend: Literal["torch-int4"],
) -> TorchModel: ...


def load(
    path: str | Path,
    provider: Provider = "auto",
    accuracy_level: int | None = None,
    *,
    backend: Backend = "onnxruntime",
) -> Session | TorchModel:
    """Open a compiled model in onnxruntime, with the settings of ``session.json`` beside it.

    Args:
        path: an output folder of a compile, of which the form in ``ort/`` is taken where it
            has one, or an ``.onnx`` file.
        provider: ``auto``, ``cuda`` or ``cpu``; cuda raises where it does not work.
        accuracy_level: of all low-bit products: 1 computes in float32, 4 with int8
            activations; None: as the model and ``session.json`` say, else onnxruntime's
            default, which is 4.
        backend: ``onnxruntime``; or ``torch-int4``, which runs ``model.pt2`` in torch on the
            CPU, 4-bit products in torch's own kernel (in bfloat16) where their shapes fit.

    Raises:
        UsageError: there is no model, or the provider does not work here.
        VerificationError: onnxruntime does not load the model.
    """
    if backend not in BACKENDS:
        raise UsageError(f"backend {backend!r} is unknown; choose from {', '.join(BACKENDS)}")
    if backend == "torch-int4":
        from awqc.runtimes.torch.torch_model import load_torch_int4

        if provider == "cuda" or accuracy_level is not None:
            raise UsageError(
                "backend torch-int4 runs on the CPU in bfloat16: leave provider and "
                "accuracy level out"
            )
        return load_torch_int4(Path(path))
    if accuracy_level is not None and accuracy_level not in range(5):
        raise UsageError(f"accuracy level {accuracy_level}: give a number from 0 to 4")
    file = find_model(Path(path))
    found = resolve_provider(provider)
    level = None if accuracy_level is None else str(accuracy_level)
    return Session(file, "cuda" if found == "cuda" else "cpu", level, read_settings(file, found))

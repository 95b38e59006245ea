"""onnxruntime sessions: on the provider that was asked for, or an error, never a silent fallback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from awqc.errors import UsageError, VerificationError
from awqc.program import Batch

Provider = Literal["auto", "cuda", "cpu"]
PROVIDERS: tuple[Provider, ...] = ("auto", "cuda", "cpu")
ACCURACY_LEVEL = "session.qdq_matmulnbits_accuracy_level"
EXACT, DEFAULT = "1", None


class Session:
    """An ONNX model that runs on torch tensors.

    Attributes:
        provider: ``cuda`` or ``cpu``, where it really runs.
    """

    def __init__(self, path: Path, provider: Provider = "auto", level: str | None = DEFAULT):
        """Load ``path``.

        Args:
            path: the model.
            provider: ``auto`` takes CUDA where onnxruntime can really use it.
            level: accuracy level of low-bit products: `EXACT` computes in float32,
                `DEFAULT` is what a session does that sets nothing (int8 activations).

        Raises:
            UsageError: CUDA was asked for and does not work here.
            VerificationError: onnxruntime does not load the model.
        """
        self.provider = resolve_provider(provider)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if level is not None:
            options.add_session_config_entry(ACCURACY_LEVEL, level)
        wanted = ["CPUExecutionProvider"]
        if self.provider == "cuda":
            wanted.insert(0, "CUDAExecutionProvider")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=wanted)
        except Exception as error:  # noqa: BLE001  onnxruntime's errors share no base class
            reason = str(error).strip().splitlines()[0]
            raise VerificationError(f"{path.name}: onnxruntime does not load it: {reason}") from error
        if self.provider == "cuda" and self._session.get_providers()[0] != wanted[0]:
            raise UsageError("CUDA was asked for, but the session runs on the CPU")
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._outputs = [value.name for value in self._session.get_outputs()]

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Outputs in order, on the CPU."""
        feeds = {name: to_numpy(batch[name]) for name in batch if name in self._inputs}
        try:
            values = self._session.run(self._outputs, feeds)
        except Exception as error:  # noqa: BLE001  as above
            reason = str(error).strip().splitlines()[0]
            raise VerificationError(f"onnxruntime cannot run the model: {reason}") from error
        return tuple(torch.from_numpy(np.array(value)) for value in values)


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
        raise UsageError(f"--provider cuda: {reason}; use --provider cpu or auto")
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
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def cast_batch(batch: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]) -> Batch:
    """``batch`` with its floating inputs in ``dtypes``."""
    return {
        name: value.to(dtypes[name]) if value.is_floating_point() and name in dtypes else value
        for name, value in batch.items()
    }


def float_outputs(names: Sequence[str], outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """The floating outputs by name, in float32."""
    return {
        name: value.float()
        for name, value in zip(names, outputs, strict=True)
        if value.is_floating_point()
    }


def load(
    path: str | Path, provider: Provider = "auto", accuracy_level: int | None = None
) -> Session:
    """Open a compiled model in onnxruntime.

    Args:
        path: an output folder of a compile, or an ``.onnx`` file.
        provider: ``auto``, ``cuda`` or ``cpu``; cuda raises where it does not work.
        accuracy_level: of low-bit products: 1 computes in float32, 4 with int8
            activations; None leaves onnxruntime's default, which is 4.

    Raises:
        UsageError: there is no model, or the provider does not work here.
        VerificationError: onnxruntime does not load the model.
    """
    file = Path(path)
    file = file / "model.onnx" if file.is_dir() else file
    if not file.is_file():
        raise UsageError(f"{path}: there is no model; give the output folder of awqc compile")
    return Session(file, provider, None if accuracy_level is None else str(accuracy_level))

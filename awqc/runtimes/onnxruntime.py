"""onnxruntime: on the provider that was asked for, never silently on another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import onnxruntime as ort
import torch
from torch import Tensor

from awqc.artifacts.names import MODEL, TUNED
from awqc.errors import UsageError, spelled
from awqc.program import Batch
from awqc.runtimes.base import Kernels
from awqc.runtimes.data_beside import data_beside
from awqc.runtimes.ort_fusion import fused_kernels
from awqc.runtimes.ort_model import OrtModel
from awqc.runtimes.session_file import CPU, CUDA, find_model
from awqc.runtimes.session_settings import ACCURACY_LEVEL, Settings, read_settings
from awqc.runtimes.torch_values import input_spec, to_numpy

FORMS = {"onnx": MODEL, "ort": f"{TUNED}/{MODEL}"}
EXACT_ADVICE = f"set {ACCURACY_LEVEL} to 1 for float32 products"

Provider = Literal["auto", "cuda", "cpu"]
PROVIDERS: tuple[Provider, ...] = ("auto", "cuda", "cpu")
EXACT, DEFAULT = "1", None


class Session:
    """An ONNX model that runs on torch tensors.

    Attributes:
        provider: ``cuda`` or ``cpu``, where it really runs.
        inputs: what it takes; dynamic axes by name.
        outputs: names of the outputs, in order.
        states: pairs (input, output) of a key/value cache, by the ecosystem's names.
        held: what must be there while the session is.
    """

    def __init__(
        self,
        path: Path,
        provider: str = "auto",
        level: str | None = DEFAULT,
        settings: Settings | None = None,
        kernels: Kernels | None = None,
    ) -> None:
        """Load ``path``.

        Args:
            path: the model.
            provider: ``auto`` takes CUDA where onnxruntime can really use it.
            level: accuracy level of low-bit products: `EXACT` computes in float32,
                `DEFAULT` is what a session does that sets nothing (int8 activations), or
                what the model says.
            settings: what else the session sets.
            kernels: of the model, where they are known.

        Raises:
            UsageError: CUDA was asked for and does not work here.
            VerificationError: onnxruntime does not load the model.
        """
        self.held: object = None
        self.provider = resolve_provider(provider)
        self._path, self._kernels = path, kernels
        self._model = OrtModel(path, self.provider, settings, level=level)
        self.inputs = tuple(map(input_spec, self._model.inputs))
        self.outputs = self._model.outputs
        self.states = self._model.states

    def run(self, batch: Batch, only: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        """Outputs in order, on the CPU; of ``only`` some, if they are named."""
        values = self._model.run({name: to_numpy(value) for name, value in batch.items()}, only)
        return tuple(torch.from_numpy(value) for value in values)

    def kernels(self) -> Kernels:
        """Low-bit kernels of the model as onnxruntime optimizes it."""
        return self._kernels or _kernels(self._path, self.provider)


def lacks() -> str | None:
    """None: awqc depends on onnxruntime."""
    return None


def open_model(file: Path, *, exact: bool, provider: str = "cpu") -> Session:
    """As in `awqc.runtimes.base.Runtime`; exact is accuracy level 1.

    Kernels are told by a session of their own, which is gone before the model is opened. A large
    model is opened with its weights beside it, see `awqc.runtimes.data_beside`.
    """
    place, held = data_beside(file)
    if exact:
        session = Session(place, provider, EXACT)
    else:
        provider = resolve_provider(provider)
        session = Session(place, provider, DEFAULT, kernels=_kernels(place, provider))
    session.held = held
    return session


def _kernels(file: Path, provider: str) -> Kernels:
    return fused_kernels(file, [CUDA, CPU] if provider == "cuda" else [CPU])


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


def load(path: str | Path, provider: str = "auto", accuracy_level: int | None = None) -> Session:
    """Open a compiled model as ``session.json`` beside it says; see `awqc.load`."""
    if accuracy_level is not None and accuracy_level not in range(5):
        raise UsageError(f"accuracy level {accuracy_level}: give a number from 0 to 4")
    file = find_model(Path(path))
    found = resolve_provider(provider)
    level = None if accuracy_level is None else str(accuracy_level)
    return Session(file, found, level, read_settings(file, found))

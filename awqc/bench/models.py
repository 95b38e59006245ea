"""Models that a benchmark runs, behind one interface: in onnxruntime, or as float in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from awqc.bench.inputs import Array, Input, states

ONNX_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


class Model(Protocol):
    """A model that is ready to run.

    Attributes:
        inputs: what it takes.
    """

    inputs: list[Input]

    def feed(self, arrays: Mapping[str, Array]) -> dict[str, Any]:
        """Arrays as values that `run` takes."""
        ...

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs that carry a state, by the input that takes them."""
        ...


class OnnxModel:
    """In onnxruntime; carried states stay on the device."""

    def __init__(self, path: Path, provider: str, threads: int) -> None:
        import onnxruntime as ort

        from awqc.runtimes.session_file import open_session
        from awqc.runtimes.session_settings import read_settings

        self._value = ort.OrtValue.ortvalue_from_numpy
        self._device = provider
        settings = read_settings(path, provider)
        self._session = open_session(path, provider, settings, threads=threads)
        self.inputs = [
            Input(spec.name, ONNX_TYPES[spec.type], tuple(spec.shape))
            for spec in self._session.get_inputs()
        ]
        self._states = {output: name for name, output in states(self.inputs).items()}
        self._outputs = [value.name for value in self._session.get_outputs()]

    def feed(self, arrays: Mapping[str, Array]) -> dict[str, Any]:
        """As in `Model`."""
        return {name: self._value(array) for name, array in arrays.items()}

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """As in `Model`."""
        binding = self._session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            binding.bind_output(name, self._device if name in self._states else "cpu")
        self._session.run_with_iobinding(binding)
        made = zip(self._outputs, binding.get_outputs(), strict=True)
        return {self._states[name]: value for name, value in made if name in self._states}


class TorchModel:
    """The float program of the original, in PyTorch on the CPU."""

    def __init__(
        self, source: str, inputs: list[str], trust_pickle: bool, threads: int, export: Path | None
    ) -> None:
        """Load ``source`` as ``awqc compile`` does; write its ONNX form to ``export``."""
        import torch

        from awqc.sources.source import load_program

        torch.set_num_threads(threads or torch.get_num_threads())
        self._torch = torch
        self._program = load_program(source, inputs=inputs, trust_pickle=trust_pickle)
        if export is not None:
            from awqc.export.onnx import export_onnx

            export_onnx(self._program, export)
        self._carried = dict(self._program.states)
        self.inputs = [
            Input(spec.name, str(spec.dtype).removeprefix("torch."), spec.shape)
            for spec in self._program.inputs
        ]

    def feed(self, arrays: Mapping[str, Array]) -> dict[str, Any]:
        """As in `Model`."""
        return {name: self._torch.from_numpy(array) for name, array in arrays.items()}

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """As in `Model`."""
        outputs = dict(zip(self._program.outputs, self._program.run(values), strict=True))
        return {name: outputs[output] for name, output in self._carried.items()}

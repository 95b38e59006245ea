"""Models that a benchmark runs, behind one interface: in onnxruntime, or as float in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from awqc.bench.workload import Array
from awqc.runtimes.base import ArraySpec


class BenchModel(Protocol):
    """A model that is ready to run.

    Attributes:
        inputs: what it takes.
        states: pairs (input, output) of a state that comes back at the next run.
    """

    inputs: tuple[ArraySpec, ...]
    states: tuple[tuple[str, str], ...]

    def hold(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """Arrays as values that `step` takes."""
        ...

    def step(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Outputs by name, and the states by the inputs that take them next."""
        ...


def open_onnx(path: Path, provider: str, threads: int) -> BenchModel:
    """The ONNX model ``path`` in onnxruntime, as ``session.json`` beside it says."""
    from awqc.runtimes.ort_model import OrtModel
    from awqc.runtimes.session_settings import read_settings

    return OrtModel(path, provider, read_settings(path, provider), threads=threads)


def open_whole(folder: Path, provider: str, threads: int, tokens: int) -> BenchModel:
    """The model of several graphs in ``folder``, which makes so many tokens of one sample."""
    from awqc.running.paced import Paced

    return Paced(folder, provider, threads, tokens)


class FloatModel:
    """The float program of the original, in PyTorch on the CPU; a `BenchModel`."""

    def __init__(
        self,
        source: str,
        inputs: list[str],
        how: Mapping[str, Any],
        threads: int,
        export: Path | None,
    ) -> None:
        """Load ``source`` as ``awqc compile`` does, with the options ``how``.

        Its ONNX form is written to ``export``.
        """
        import torch

        from awqc.sources.source import load_program

        torch.set_num_threads(threads or torch.get_num_threads())
        self._torch = torch
        self._program = load_program(source, inputs=inputs, **how)
        if export is not None:
            from awqc.export.onnx import export_onnx

            export_onnx(self._program, export)
        self.states = tuple(self._program.states)
        self.inputs = tuple(
            ArraySpec(spec.name, str(spec.dtype).removeprefix("torch."), spec.shape)
            for spec in self._program.inputs
        )

    def hold(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """As in `BenchModel`."""
        return {name: self._torch.from_numpy(array) for name, array in feeds.items()}

    def step(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in `BenchModel`."""
        made = dict(zip(self._program.outputs, self._program.run(dict(values)), strict=True))
        return made, {name: made.pop(output) for name, output in self.states}

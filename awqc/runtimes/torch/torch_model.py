"""Run the ``model.pt2`` of a compile by torch, its low-bit products in torch's own kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.fx import GraphModule

from awqc.calling import restore_calls
from awqc.capture.compiled import load_compiled
from awqc.errors import UsageError, spelled
from awqc.program import Batch, InputSpec, Program
from awqc.runtimes.torch.torch_kernels import Replaced, use_torch_kernels


class TorchModel:
    """A compiled model in torch, on the CPU.

    Attributes:
        graph_module: called as the original model was.
        inputs: what `run` takes; dynamic axes by name.
        outputs: names of the outputs, in order.
        states: pairs (input, output) of a key/value cache, by the ecosystem's names.
        fast: names of the weights whose codes torch's kernels read.
        portable: why the other quantized weights were dequantized, once, by name.
    """

    def __init__(self, program: Program) -> None:
        """Take ``program`` over and let it use the kernels."""
        replaced: Replaced = use_torch_kernels(program)
        self._program = program
        self.graph_module: GraphModule = restore_calls(program)
        self.inputs: tuple[InputSpec, ...] = program.inputs
        self.outputs: tuple[str, ...] = program.outputs
        self.states: tuple[tuple[str, str], ...] = tuple(program.states)
        self.fast, self.portable = replaced.fast, replaced.portable

    def run(self, batch: Batch, only: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        """Outputs in order; of ``only`` some, if they are named."""
        found = dict(zip(self.outputs, self._program.run(batch), strict=True))
        return tuple(found[name] for name in (only or self.outputs))


def load_torch_int4(path: Path) -> TorchModel:
    """The compiled model in the folder ``path``, from its ``model.pt2``.

    Raises:
        UsageError: there is none.
        CaptureError: the archive is damaged, or of another version of torch.
    """
    file = path / "model.pt2" if path.is_dir() else path
    if not file.is_file() or file.suffix.lower() != ".pt2":
        raise UsageError(
            f"{path}: there is no model.pt2, which torch-int4 runs; compile with "
            f"{spelled('formats', 'onnx,pt2')}, and give the output folder"
        )
    return TorchModel(load_compiled(file))

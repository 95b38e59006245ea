"""torch: the ``model.pt2`` of a compile, its low-bit products in torch's own kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.fx import GraphModule

from awqc.artifacts.names import ARCHIVE
from awqc.calling import restore_calls
from awqc.capture.compiled import load_compiled
from awqc.errors import UsageError
from awqc.graph.linears import find_linears
from awqc.program import Batch, InputSpec, Program
from awqc.runtimes.base import Kernels, failing_as, find_form, needed
from awqc.runtimes.torch.kernels import Replaced, use_torch_kernels

FORMS = {"pt2": ARCHIVE}
EXACT_ADVICE = "use torch.export.load, which computes in the model's own dtype"


class TorchModel:
    """A compiled model in torch, on the CPU.

    Attributes:
        graph_module: called as the original model was.
        inputs: what `run` takes; dynamic axes by name.
        outputs: names of the outputs, in order.
        states: pairs (input, output) of a key/value cache, by the ecosystem's names.
        provider: ``cpu``.
        fast: names of the weights whose codes torch's kernels read.
        portable: why the other quantized weights were dequantized, once, by name.
    """

    provider = "cpu"

    def __init__(self, program: Program, *, exact: bool = False) -> None:
        """Take ``program`` over and let it use the kernels, unless ``exact``.

        An exact model dequantizes its weights at each run, as the archive does that it came from.
        """
        replaced = Replaced((), {}) if exact else use_torch_kernels(program)
        self._program = program
        self.graph_module: GraphModule = restore_calls(program)
        self.inputs: tuple[InputSpec, ...] = program.inputs
        self.outputs: tuple[str, ...] = program.outputs
        self.states: tuple[tuple[str, str], ...] = tuple(program.states)
        self.fast, self.portable = replaced.fast, replaced.portable

    def run(self, batch: Batch, only: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        """Outputs in order; of ``only`` some, if they are named."""
        taken = needed("torch", self.inputs, batch)
        with failing_as("torch cannot run the model", RuntimeError, IndexError, ValueError):
            values = self._program.run(taken)
        found = dict(zip(self.outputs, values, strict=True))
        return tuple(found[name] for name in (only or self.outputs))

    def kernels(self) -> Kernels:
        """What `fast` and `portable` say; a portable weight takes the memory of float."""
        linears = find_linears(self._program.graph)
        read = {linear.weight_name for linear in linears if linear.op == "linear"}
        products = [n for n in self.portable if any(r.startswith(f"{n}.") for r in read)]
        others = [name for name in self.portable if name not in products]
        return Kernels(len(self.fast), tuple(products), tuple(others), "bfloat16")


def lacks() -> str | None:
    """None: awqc depends on torch."""
    return None


def open_model(file: Path, *, exact: bool, provider: str = "cpu") -> TorchModel:
    """As in `awqc.runtimes.base.Runtime`; always on the CPU; exact is without the kernels.

    Raises:
        CaptureError: the archive is damaged, or of another version of torch.
    """
    return TorchModel(load_compiled(file), exact=exact)


def load(path: Path, provider: str = "auto", accuracy_level: int | None = None) -> TorchModel:
    """Open the ``model.pt2`` of a folder; see `awqc.load`."""
    if provider == "cuda" or accuracy_level is not None:
        raise UsageError(
            "torch-int4 runs on the CPU in bfloat16: leave provider and accuracy level out"
        )
    return open_model(find_form(path, FORMS, "torch-int4"), exact=False)

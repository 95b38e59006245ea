"""What the original gives on held-out batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from awqc.errors import CalibrationError
from awqc.graph.choices import Choices, recorded_choices
from awqc.machine.spool import Spool
from awqc.program import Batch, Program
from awqc.verify.text_pieces import PieceReader, TextPiece, in_pieces

MAX_REFERENCE_ELEMENTS = 40_000_000
"""Elements of outputs that are kept, 160 MB in float32."""
LARGE = 2**16
"""Bytes of an output from which on it waits in a file."""


@dataclass(frozen=True)
class Reference:
    """Outputs of the original model on held-out batches.

    Attributes:
        pieces: the inputs: whole batches, or the pieces of one after the other.
        outputs: the outputs for each piece.
        count: of batches.
        choices: what the model chose in each piece, see `awqc.graph.choices`.
    """

    pieces: tuple[TextPiece, ...]
    outputs: tuple[tuple[Tensor, ...], ...]
    count: int
    choices: tuple[Choices, ...] = ()

    @property
    def batches(self) -> tuple[Batch, ...]:
        """Inputs that need no states from before: of each batch all of it, or its first piece."""
        return tuple(piece.batch for piece in self.pieces if not piece.continues)

    def in_dtypes(self, program: Program) -> Reference:
        """The same for ``program``, which may take its inputs in other dtypes."""
        pieces = (replace(each, batch=in_dtypes(program, each.batch)) for each in self.pieces)
        return replace(self, pieces=tuple(pieces))


def waiting_outputs() -> Spool:
    """Keeps outputs until they are compared: large ones in a file, which the system can drop."""
    return Spool("outputs that are to be compared", small=LARGE)


def take_reference(program: Program, batches: Sequence[Batch]) -> Reference:
    """Run the original on as many batches as fit into memory, at least one.

    Raises:
        CalibrationError: the model fails on a batch.
    """
    taken: list[TextPiece] = []
    outputs: list[tuple[Tensor, ...]] = []
    waiting = waiting_outputs()
    choices: list[Choices] = []
    elements = count = 0
    for batch in batches:
        if taken and elements >= MAX_REFERENCE_ELEMENTS:
            break
        read = PieceReader(program, partial(_run, program))
        for piece in in_pieces(program, batch):
            with recorded_choices() as chosen:
                made = read(piece)
            taken.append(piece)
            choices.append(tuple(chosen))
            elements += sum(value.numel() for value in made)
            outputs.append(waiting.keep(made))
        count += 1
    return Reference(tuple(taken), tuple(outputs), count, tuple(choices))


def in_dtypes(program: Program, batch: Batch) -> Batch:
    """``batch`` as ``program`` takes it: of a model in another dtype it has the same values."""
    given = {spec.name: spec.dtype for spec in program.inputs if spec.name in batch}
    return {name: batch[name].to(dtype) for name, dtype in given.items()}


def _run(program: Program, batch: Batch) -> tuple[Tensor, ...]:
    try:
        return program.run(in_dtypes(program, batch))
    except (IndexError, RuntimeError, ValueError) as error:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items())
        reason = "; ".join(_fixed_sizes(program, batch)) or error
        raise CalibrationError(
            f"{program.name} fails on a calibration batch with {shapes}: {reason}; "
            "give data that the model takes, with calib"
        ) from error


def _fixed_sizes(program: Program, batch: Batch) -> Iterator[str]:
    """Where ``batch`` has another size than the graph, whose axis the model's code has fixed."""
    for spec in program.inputs:
        for axis, (size, found) in enumerate(zip(spec.shape, batch[spec.name].shape, strict=False)):
            if isinstance(size, int) and size != found:
                yield (
                    f"axis {axis} of {spec.name} is {found}, and the graph is for {size} alone, "
                    "since the model does something else for other sizes"
                )

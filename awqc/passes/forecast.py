"""What a compile will need, told before it begins: memory, by its parts, and products.

It is an estimate: sizes follow from the graph and the data, what work on them takes from how the
passes are written. `benchmarks/scale.py` keeps it beside what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node
from torch.utils import _pytree as pytree

from awqc.executor.run import Bounds
from awqc.executor.segments import Segment, cut, is_weight, weights_read
from awqc.graph.linears import Linear, find_linears
from awqc.graph.nodes import results_of, shape_of
from awqc.machine.narrow import Narrow
from awqc.numerics.request import QuantizationSpec
from awqc.numerics.statistics import MOST_COLUMNS
from awqc.passes.insert_observers import InsertObservers
from awqc.program import Batch, Program
from awqc.weights.decisions import decide, embedding_tables
from awqc.weights.tuning.rows import ELEMENTS
from awqc.weights.tuning.student import LOGIT_COPIES, WEIGHT_COPIES

SKETCH_ROWS = InsertObservers.rows
MATRIX_COPIES = 5
"""Float32 copies of a matrix while it is rounded with compensation: it, its columns in order,
steps, codes, and what it is measured with."""
GRAM_COPIES = 3
"""Copies of moments while they are factored: scaled, damped, and in order."""
INLINE = 2**27
"""Bytes of quantized weights up to which they lie in the ONNX file itself."""
SESSION_COPIES = {True: 3.8, False: 2.1}
"""Copies of the quantized weights while onnxruntime opens them and lays them out for kernels: of
those in the file itself, which is read whole, and of those in a file beside it, which is mapped.
Measured with onnxruntime 1.31 on forty 4-bit matrices of 2048 x 2048: 2.93 and 2.07; 3.8 on a
model of which half are a head and a table of 8 bits."""
WRITING_COPIES = {True: 3.6, False: 1.0}
"""Copies of the quantized weights while ONNX is written and checked: 3.6 were measured where they
lie in the file itself."""
OPEN_COPIES = 2
"""Copies of the quantized weights that a session holds once it is open."""
TURNED = 12
"""Bytes for each weight of a head that is a table too: onnxruntime makes it in float32, and again
with rows and columns exchanged, before it rounds it back; of the copies above, one comes later.
Measured: 353 MB on 49152 x 576 alone, 457 MB and 2.1 GB on all of SmolLM2-135M and Gemma 3 270M."""
LIBRARIES = 200 * 2**20
"""Bytes of what is imported to write ONNX and to open it, of the graphs that are made of the model
meanwhile, and of what running it leaves: 120 to 215 MB were measured on models of 8 to 30
layers."""
OUTPUT_COPIES = 4
"""Copies of the largest output while forms are compared: the runtime's, ours, and slices of it in
other dtypes."""
PIECE = 2**25
"""Bytes of the logits that a decoder with a cache makes at once while forms are compared."""


@dataclass(frozen=True)
class Forecast:
    """What a compile will need.

    Attributes:
        weights: elements of the weights of products and lookups.
        segments: elements of weights that each segment reads.
        batches: of the calibration data.
        rows: that the calibration data has at the product that sees most, in all.
        operations: multiplications and additions of one run over the calibration data.
        resident: bytes of the process with the model open.
        values: bytes of what lives between two segments, for all batches.
        codes: bytes of the quantized weights.
        working: bytes for each segment while it is worked on.
        tuning: bytes of the weights that are there while scales are tuned, and of logits.
        lessons: bytes of what tuning learns from, all batches.
        on_the_way: bytes of what lives between the pieces that tuning runs, for one batch.
        verifying: bytes of what writes ONNX, of a session and what opens it, and of outputs that
            are compared.
        named: what each segment works on, in words.
    """

    weights: int
    segments: tuple[int, ...]
    batches: int
    rows: int
    operations: int
    resident: int
    values: int
    codes: int
    working: tuple[int, ...]
    tuning: int
    lessons: int
    on_the_way: int
    verifying: int
    named: tuple[str, ...]

    def peak(self, bounds: Bounds) -> int:
        """Bytes that the process will hold at most, less what the system can drop."""
        kept = min(self.values, bounds.values)
        codes = self.codes if len(self.segments) == 1 else min(self.codes, bounds.codes)
        taught = min(self.lessons, bounds.lessons)
        tuning = self.tuning + min(self.on_the_way, bounds.lessons)
        most = max(taught + max(kept + max(self.working), tuning), self.verifying)
        return self.resident + codes + most

    def least(self) -> int:
        """The peak where all that can be in files is there."""
        return self.peak(Bounds(0, 0, 0))

    def disk(self, bounds: Bounds) -> int:
        """Bytes of files: temporary ones, the journal, and one form of the result."""
        if len(self.segments) == 1:
            return self.codes
        besides = max(0, self.lessons - bounds.lessons) + max(0, self.on_the_way - bounds.lessons)
        return self.values + max(0, self.values - bounds.values) + besides + 3 * self.codes

    def within(self, limit: int) -> Bounds:
        """The largest bounds, up to the usual ones, with which the peak stays below ``limit``."""
        usual = Bounds()
        left = max(0, limit - self.least())
        codes = min(usual.codes, left // 4)
        lessons = min(usual.lessons, (left - codes) // 3)
        return Bounds(min(usual.values, left - codes - lessons), codes, lessons, limit)


def forecast(
    program: Program,
    segments: Sequence[Segment],
    batches: Sequence[Batch],
    spec: QuantizationSpec,
    resident: int,
    tunes: bool = False,
) -> Forecast:
    """What a compile of ``program`` will need.

    Args:
        program: canonicalized, and nothing learned yet.
        segments: of it.
        batches: the calibration data.
        spec: of the weights.
        resident: bytes that the process holds already.
        tunes: whether scales are tuned afterwards.
    """
    pieces = cut(program, smallest=1) if tunes else []
    sizes = _Sizes(program, batches[0] if batches else program.check_batch())
    formats = decide(program, spec).formats
    packed = sum(
        form.nbytes(rows, columns, program.scale_dtype)
        for name, form in formats.items()
        for rows, columns in [_matrix(program, name)]
    )
    linears = find_linears(program.graph)
    rows = [sizes.rows(linear.node) * len(batches) for linear in linears]
    each = [linear.rows * linear.columns for linear in linears]
    chosen = [linear for linear in linears if linear.weight_name in formats]
    hard = {name for name, form in formats.items() if spec.learns and not form.fine}
    return Forecast(
        weights=weights_read(program.graph.nodes),
        segments=tuple(weights_read(segment.nodes) for segment in segments),
        batches=len(batches),
        rows=max(rows, default=0),
        operations=2 * sum(count * weights for count, weights in zip(rows, each, strict=True)),
        resident=resident,
        values=len(batches) * max(map(sizes.behind, segments[:-1]), default=0),
        lessons=len(batches) * max(map(sizes.behind, pieces[:-1]), default=0),
        on_the_way=sum(map(sizes.behind, pieces[:-1])),
        tuning=_tuning(pieces) if tunes else 0,
        named=tuple(_names(_within(segment, linears)) for segment in segments),
        codes=packed,
        working=tuple(
            sizes.activations(segment) + _rounding(program, _within(segment, chosen), hard)
            for segment in segments
        ),
        verifying=LIBRARIES
        + max(
            _opening(packed, _turned(program, chosen)),
            int(WRITING_COPIES[packed <= INLINE] * packed),
            OPEN_COPIES * packed + OUTPUT_COPIES * _compared(program, sizes.output()),
        ),
    )


def _tuning(pieces: Sequence[Segment]) -> int:
    """While scales are tuned, a piece of the model at a time; as of `Student.bytes_needed`."""
    *first, head = (4 * weights_read(piece.nodes) for piece in pieces)
    return max(WEIGHT_COPIES * max(first, default=0), 2 * head + LOGIT_COPIES * 4 * ELEMENTS)


def _names(linears: Sequence[Linear]) -> str:
    """The largest matrix of a segment, and how many others there are.

    Of no product: empty.
    """
    if not linears:
        return ""
    largest = max(linears, key=lambda each: each.rows * each.columns)
    more = f" and {len(linears) - 1} more" if len(linears) > 1 else ""
    return f"{largest.weight_name} ({largest.rows} x {largest.columns}){more}"


def _opening(packed: int, turned: int) -> int:
    """While a form with ``packed`` bytes of weights is opened, of which ``turned`` are shared."""
    copies = SESSION_COPIES[packed <= INLINE]
    return int(max(copies * packed, (copies - 1) * packed + TURNED * turned))


def _turned(program: Program, linears: Sequence[Linear]) -> int:
    """Weights of products that are looked up as well."""
    tables = {str(table.target) for table in embedding_tables(program)}
    shared = {each.weight_name: each.rows * each.columns for each in linears}
    return sum(size for name, size in shared.items() if name in tables)


def _compared(program: Program, output: int) -> int:
    """Of the outputs of a batch that are there at once, at most."""
    return min(output, PIECE) if program.states and program.head_outputs else output


def _matrix(program: Program, name: str) -> tuple[int, int]:
    """Rows and columns of a weight."""
    shape = program.kept(name).shape
    return shape[0], prod(shape[1:])


def _within(segment: Segment, linears: Sequence[Linear]) -> list[Linear]:
    inside = set(segment.nodes)
    return [each for each in linears if each.node in inside]


def _rounding(program: Program, linears: Sequence[Linear], hard: set[str]) -> int:
    """Statistics of the products of a segment, and what is rounded at once.

    ``hard`` are the weights whose errors are compensated; those that read the same go together.
    """
    columns = {each.observed: each.columns for each in linears}
    together: dict[str, int] = {}
    for each in linears:
        if each.weight_name in hard and each.columns <= MOST_COLUMNS:
            size = each.rows * each.columns
            together[each.observed] = together.get(each.observed, 0) + size
    kept = sum(SKETCH_ROWS * count for count in columns.values())
    kept += sum(columns[key] ** 2 for key in together)
    floats = {e.weight_name: e.rows * e.columns for e in linears if not _stays_narrow(program, e)}
    kept += sum(floats.values())
    work = [
        MATRIX_COPIES * size + GRAM_COPIES * columns[key] ** 2 for key, size in together.items()
    ]
    at_once = sorted(work)[-torch.get_num_threads() :]
    return 4 * (kept + sum(at_once))


def _stays_narrow(program: Program, linear: Linear) -> bool:
    return isinstance(program.kept(linear.weight_name), Narrow)


class _Sizes:
    """Bytes of the values of ``program`` when it reads ``batch``."""

    def __init__(self, program: Program, batch: Batch) -> None:
        self._known: dict[Any, int] = {}
        inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(inputs, program.inputs, strict=True):
            for size, found in zip(shape_of(node), batch[spec.name].shape, strict=True):
                if isinstance(size, torch.SymInt):
                    self._known[size.node.expr] = found
        self._outputs = [self._bytes(node) for node in results_of(program.graph)]

    def rows(self, node: Node) -> int:
        """Rows of the matrix that a product gives."""
        shape = [self._size(size) for size in shape_of(node)]
        return prod(shape[:-1])

    def output(self) -> int:
        """Of the largest output."""
        return max(self._outputs, default=0)

    def behind(self, segment: Segment) -> int:
        """Of what later segments read."""
        inside = set(segment.nodes)
        return sum(
            self._bytes(node)
            for node in segment.nodes
            if not is_weight(node) and any(user not in inside for user in node.users)
        )

    def activations(self, segment: Segment) -> int:
        """Of what is there at one time, at most; what is only seen otherwise counts once."""
        inside = {node: place for place, node in enumerate(segment.nodes)}
        gone: dict[int, int] = {}
        most = now = 0
        for place, node in enumerate(segment.nodes):
            size = 0 if is_weight(node) or _is_view(node) else self._bytes(node)
            now += size
            most = max(most, now)
            last = max((inside.get(user, len(inside)) for user in node.users), default=place)
            gone[last] = gone.get(last, 0) + size
            now -= gone.pop(place, 0)
        return most

    def _bytes(self, node: Node) -> int:
        leaves = pytree.tree_leaves(node.meta.get("val"))
        return sum(
            leaf.element_size() * prod(self._size(size) for size in leaf.shape)
            for leaf in leaves
            if isinstance(leaf, Tensor)
        )

    def _size(self, size: Any) -> int:
        """What a size comes to; that of the example where it does not follow from the inputs."""
        if not isinstance(size, torch.SymInt):
            return int(size)
        expression = size.node.expr
        if expression not in self._known:
            made = expression.subs(self._known)
            hint = size.node.hint if size.node.has_hint() else 0
            self._known[expression] = int(made) if made.is_number else int(hint)
        return self._known[expression]


def _is_view(node: Node) -> bool:
    """Whether ``node`` gives the memory that another value lies in."""
    if not isinstance(node.target, OpOverload):
        return node.op == "call_function"  # a part of a tuple
    return any(each.alias_info is not None for each in node.target._schema.returns)

"""What a target will not run as it stands in the model that was written for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx

from awqc.runtimes.session_file import MODEL, TUNED
from awqc.targets.base import Target

TYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}
MIB = 2**20


def misfits(folder: Path, target: Target) -> Iterator[str]:
    """What in the model for ``target`` in ``folder`` it has no kernel or no room for, in words."""
    path = folder / (TUNED if target.fused else "") / MODEL
    if not path.is_file():
        return
    graph = onnx.load(path, load_external_data=False).graph
    where = f"for {target.about} ({target.name})"
    counts = Counter(node.op_type for node in graph.node if node.domain == "")
    for op in sorted(target.lacks & set(counts)):
        yield f"{where}: {counts[op]} of {op} have no kernel there and run elsewhere, if at all"
    for tensor in graph.initializer:
        size = _bytes(tensor)
        if target.largest_buffer is not None and size > target.largest_buffer:
            yield (
                f"{where}: {tensor.name} takes {size / MIB:.0f} MiB; a buffer has at most "
                f"{target.largest_buffer / MIB:.0f} MiB there"
            )
    kinds = {TYPES.get(value.type.tensor_type.elem_type) for value in graph.output}
    for kind in sorted(kinds - {None, *target.dtypes}, key=str):
        yield f"{where}: the model computes in {kind}; it takes {', '.join(target.dtypes)}"


def _bytes(tensor: onnx.TensorProto) -> int:
    """Of the content of ``tensor``, which may lie in another file."""
    places = {entry.key: entry.value for entry in tensor.external_data}
    return int(places["length"]) if "length" in places else len(tensor.raw_data)

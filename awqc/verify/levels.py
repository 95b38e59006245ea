"""Choose where low-bit products may round their activations to int8.

Accuracy level 4 is by far the fastest and rounds what it reads to int8, block by block. What
that costs is measured: each product is run beside its own twin at the exact level, on the same
input, in one model. Those with the largest error become exact, as few as keep the outputs
within the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch
from onnx import helper

from awqc.export.ort_levels import FAST, write_levels
from awqc.export.session_file import write_session_file
from awqc.program import Batch
from awqc.runtimes.onnxruntime import EXACT
from awqc.runtimes.row_by_row import parts_of
from awqc.runtimes.session_file import (
    CPU,
    DATA_FOLDER,
    LEVELLED,
    MODEL,
    TUNED,
    open_session,
    read_levels,
    set_levels,
)
from awqc.runtimes.torch_values import to_numpy
from awqc.verify.gaps import Gaps
from awqc.verify.verification import Verification

MAX_LOSS = 0.05
"""Largest relative L2 difference of the outputs from the exact level's that level 4 may make."""
BATCHES = 2


def settle_levels(folder: Path, verification: Verification, batches: Sequence[Batch]) -> bool:
    """Choose levels where level 4 loses more than `MAX_LOSS`; whether a model was changed.

    The QDQ form has one level for all products, in ``session.json``; onnxruntime's own form
    has one for each. Without a comparison in onnxruntime nothing is known, and nothing chosen.
    """
    qdq, own = (verification.find("onnxruntime", form) for form in ("onnx", "ort"))
    tuned = folder / TUNED / MODEL
    if qdq is not None and qdq.default["norm_rel"] > MAX_LOSS:
        write_session_file(folder / MODEL, int(EXACT))
    if own is None or own.default["norm_rel"] <= MAX_LOSS or not own.kernels.low_bit:
        return False
    write_levels(tuned, choose_levels(tuned, batches))
    return True


def choose_levels(path: Path, batches: Sequence[Batch], limit: float = MAX_LOSS) -> dict[str, int]:
    """Levels for all products of the model at ``path`` that keep it within ``limit``.

    Runs on the CPU, where levels matter. The products are ordered by `damages`; how many of
    them must be exact is found by halving. 8-bit products come last: below level 4 their
    kernel is many times slower.
    """
    proto = onnx.load(path, load_external_data=False)
    few = [dict(each) for batch in batches[:BATCHES] for each in parts_of(_feeds(proto, batch))]
    found = damages(path, few)
    wide = {node.name for node in proto.graph.node if _attribute(node, "bits") == 8}
    order = sorted(found, key=lambda name: (name in wide, -found[name]))
    session = open_session(path, "cpu", level=EXACT)
    wanted = [session.run(None, feeds) for feeds in few]

    def levels(exact: int) -> dict[str, int]:
        slow = set(order[:exact])
        return {name: int(EXACT) if name in slow else FAST for name in found}

    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if _loss(path, levels(middle), few, wanted) <= limit:
            high = middle
        else:
            low = middle + 1
    return levels(low)


def damages(path: Path, feeds: Sequence[dict[str, Any]]) -> dict[str, float]:
    """For each product ``|y4 - y| / |y|``: level 4 against the exact one, on the same input."""
    proto = onnx.load(path, load_external_data=False)
    names = _add_twins(proto)
    session = _session(proto, path)
    totals = {name: [0.0, 0.0] for name in names}
    for feed in feeds:
        values = iter(session.run([f"{n}.{part}" for n in names for part in _PARTS], feed))
        for name in names:
            totals[name][0] += float(next(values))
            totals[name][1] += float(next(values))
    return {
        name: (noise / signal) ** 0.5 if signal > 0 else 0.0
        for name, (noise, signal) in totals.items()
    }


_PARTS = ("noise", "signal")


def _add_twins(proto: onnx.ModelProto) -> list[str]:
    """Put a twin at level 4 beside each exact product, and make their distances outputs."""
    set_levels(proto, dict.fromkeys(read_levels(proto), int(EXACT)))
    graph = proto.graph
    nodes: list[onnx.NodeProto] = []
    names = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type in LEVELLED:
            name = str(node.name)
            names.append(name)
            twin = onnx.NodeProto()
            twin.CopyFrom(node)
            twin.name, twin.output[0] = f"{name}.twin", f"{name}.fast"
            nodes += [twin, *_distance(name, node.output[0])]
    twins = {f"{name}.twin": FAST for name in names}
    del graph.node[:]
    graph.node.extend(nodes)
    set_levels(proto, twins)
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(f"{name}.{part}", onnx.TensorProto.FLOAT, [])
        for name in names
        for part in _PARTS
    )
    return names


def _distance(name: str, exact: str) -> list[onnx.NodeProto]:
    """Sums of squares of ``fast - exact`` and of ``exact``, in float32."""
    wide = [
        helper.make_node("Cast", [source], [f"{name}.{role}"], to=onnx.TensorProto.FLOAT)
        for source, role in ((exact, "wide"), (f"{name}.fast", "fast_wide"))
    ]
    difference = f"{name}.difference"
    return [
        *wide,
        helper.make_node("Sub", [f"{name}.fast_wide", f"{name}.wide"], [difference]),
        helper.make_node("ReduceSumSquare", [difference], [f"{name}.noise"], keepdims=0),
        helper.make_node("ReduceSumSquare", [f"{name}.wide"], [f"{name}.signal"], keepdims=0),
    ]


def _loss(
    path: Path, levels: dict[str, int], feeds: Sequence[dict[str, Any]], wanted: Sequence[Any]
) -> float:
    proto = onnx.load(path, load_external_data=False)
    set_levels(proto, levels)
    session = _session(proto, path)
    gaps, names = Gaps(), [output.name for output in session.get_outputs()]
    for feed, references in zip(feeds, wanted, strict=True):
        for name, now, reference in zip(names, session.run(None, feed), references, strict=True):
            gaps.add(name, torch.from_numpy(now), torch.from_numpy(reference))
    return gaps.norm_rel


def _session(proto: onnx.ModelProto, path: Path) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(DATA_FOLDER, str(path.parent.resolve()))
    return ort.InferenceSession(proto.SerializeToString(), options, providers=[CPU])


def _feeds(proto: onnx.ModelProto, batch: Batch) -> dict[str, Any]:
    given = {tensor.name for tensor in proto.graph.initializer}  # inputs that need not be fed
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in proto.graph.input
        if value.name not in given
    }
    return {
        name: to_numpy(batch[name]).astype(helper.tensor_dtype_to_np_dtype(type_))
        for name, type_ in types.items()
    }


def _attribute(node: onnx.NodeProto, name: str) -> int | None:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), None)

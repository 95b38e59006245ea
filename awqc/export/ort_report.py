"""What the report says about the form that is onnxruntime's own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from awqc.export.ort import RUNS_ON, left_in_qdq
from awqc.fusion.patterns import APART
from awqc.fusion.workbench import CONTRIB
from awqc.kv_cache import PLACES
from awqc.runtimes.ort_fusion import FUSED_OPS
from awqc.runtimes.session_file import read_levels
from awqc.targets.known import AUTO, find_target


def describe_ort(path: Path) -> dict[str, Any]:
    """Numbers of nodes, products at each accuracy level, what is left in QDQ form and why.

    ``positions`` says whether the model is ``given`` them or counts ``places`` in its cache itself.
    ``fused`` counts operations that took the place of several, and ``apart`` has the reason of each
    attention, rotation and norm that stayed as it was.
    """
    proto = onnx.load(path, load_external_data=False)
    levels = read_levels(proto)
    tables = sum(node.op_type == "GatherBlockQuantized" for node in proto.graph.node)
    nodes = Counter(node.op_type for node in proto.graph.node if node.domain == CONTRIB)
    told = {entry.key: entry.value for entry in proto.metadata_props}
    lowest = min(levels.values(), default=0)
    target = find_target(told.get(RUNS_ON, AUTO))
    return {
        "target": target.name,
        "products": len(levels),
        "tables": tables,
        "levels": {str(key): count for key, count in sorted(Counter(levels.values()).items())},
        "exact_products": sorted(
            name for name, level in levels.items() if level == lowest < max(levels.values())
        ),
        "left": left_in_qdq(ir.load(path), target),
        "nodes": len(proto.graph.node),
        "fused": {op: count for op, count in sorted(nodes.items()) if op not in FUSED_OPS},
        "positions": "places" if told.get(PLACES) == "1" else "given",
        "apart": json.loads(told.get(APART, "{}")),
    }

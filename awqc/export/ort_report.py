"""What the report says about the form that is onnxruntime's own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from awqc.export.ort import left_in_qdq
from awqc.runtimes.session_file import read_levels


def describe_ort(path: Path) -> dict[str, Any]:
    """Numbers of nodes, products at each accuracy level, what is left in QDQ form and why."""
    proto = onnx.load(path, load_external_data=False)
    levels = read_levels(proto)
    tables = sum(node.op_type == "GatherBlockQuantized" for node in proto.graph.node)
    lowest = min(levels.values(), default=0)
    return {
        "products": len(levels),
        "tables": tables,
        "levels": {str(key): count for key, count in sorted(Counter(levels.values()).items())},
        "exact_products": sorted(
            name for name, level in levels.items() if level == lowest < max(levels.values())
        ),
        "left": left_in_qdq(ir.load(path)),
    }

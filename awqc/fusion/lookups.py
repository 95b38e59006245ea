"""Lookups that take everything in its order."""

from __future__ import annotations

from awqc.fusion.onnx_values import dims
from awqc.fusion.workbench import Workbench

ROWS_AND_PLACES = 2
"""Axes of a mask."""
BETWEEN = [1, 2]
"""Where a mask for scores has the axes of heads and of tokens that look."""


def drop_whole_lookups(bench: Workbench) -> None:
    """A mask that is looked up at each row and place, as models write it, is the mask.

    before:  m = GatherND(mask, [row, place])    for every row and every place, behind Range
    after:   m = Unsqueeze(mask, [1, 2])         (rows, 1, 1, places)
    """
    for node in list(bench.graph):
        if node.op_type != "GatherND" or len(dims(node.inputs[0]) or []) != ROWS_AND_PLACES:
            continue
        source = node.inputs[0]
        after = bench.add("Unsqueeze", [source, bench.constant(BETWEEN)], at=node)
        if bench.switch("whole lookup", {node.outputs[0]: after}, [source]) is None:
            after.type = source.type

"""What a code looks like is for formats to know: a count of the files outside that know it."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "awqc"
WIDTH = frozenset({"bits", "storage_bits", "quant_max", "midpoint", "MIDPOINTS"})
MOST = 8
"""Exporters and kernels that store whole numbers, the request, and a width for each weight."""


def knows_the_width(path: Path) -> bool:
    """Whether code of ``path`` reads the width of a code, or what follows from it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in WIDTH:
            return True
        if isinstance(node, ast.Name) and node.id in WIDTH - {"bits"}:
            return True
    return False


def test_few_files_outside_numerics_know_the_width_of_a_code() -> None:
    outside = [p for p in PACKAGE.rglob("*.py") if "numerics" not in p.relative_to(PACKAGE).parts]
    found = sorted(str(p.relative_to(PACKAGE)) for p in outside if knows_the_width(p))
    assert len(found) <= MOST, found

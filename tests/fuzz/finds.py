"""What `python -m tests.fuzz` has found: each must stay mended."""

from __future__ import annotations

from tests.fuzz.files import QUICK, Case
from tests.fuzz.graphs import Graph

GRAPHS: tuple[Graph, ...] = (
    Graph("images", ("place", "pool"), 944899),  # a pool whose size follows from a free axis
)

FILES: tuple[Case, ...] = (
    Case("out/recipe.json", f"compile model.pt --recipe out {QUICK}", 521915030),
)

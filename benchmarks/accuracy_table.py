"""Writes docs/accuracy.md from the results of `benchmarks.accuracy`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"


def write_page(results: dict[str, Any]) -> None:
    """Write the page."""
    PAGE.write_text("# Accuracy\n")

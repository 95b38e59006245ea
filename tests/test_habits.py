"""Habits that nothing else holds, read from the source."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SILENCED = re.compile(r"#\s*(type: ignore|noqa)\b")
REASONED = re.compile(
    r"#\s*(type: ignore\[[\w, -]+\]  # \w.{5,}|noqa: [A-Z]+\d+(, [A-Z]+\d+)*  ?(- )?\w.{5,})"
)


def silenced(text: str) -> list[tuple[int, str]]:
    """The comments that silence a checker, with their lines."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    return [(token.start[0], token.string) for token in comments if SILENCED.match(token.string)]


def test_whatever_silences_a_checker_says_why() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}": comment
        for folder in ("awqc", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for line, comment in silenced(path.read_text())
    }
    assert len(found) > 20
    assert {where: what for where, what in found.items() if not REASONED.match(what)} == {}


@pytest.mark.parametrize("comment", [
    "# type: ignore", "# type: ignore[misc]", "# type: ignore[misc]  #", "# noqa", "# noqa: F401",
])  # fmt: skip
def test_a_bare_one_is_found(comment: str) -> None:
    assert [what for _, what in silenced(f"x = 1  {comment}\n")] == [comment]
    assert not REASONED.match(comment)
    assert not silenced(f"text = '{comment}'\n")

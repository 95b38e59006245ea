"""docs/verification.md, of which each script writes the sections that it has measured."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "verification.md"
TITLE = "# What verification catches\n"


def write_section(heading: str, text: str, page: Path = PAGE) -> None:
    """Put ``text`` under ``## heading``, in place of what stands there or at the end."""
    before = page.read_text(encoding="utf-8") if page.exists() else TITLE
    head, *sections = re.split(r"^## ", before, flags=re.MULTILINE)
    made = f"{heading}\n\n{text.strip()}\n"
    index = next(
        (n for n, old in enumerate(sections) if old.splitlines()[0] == heading), len(sections)
    )
    sections[index : index + 1] = [made]
    whole = "\n## ".join(part.strip() + "\n" for part in (head, *sections))
    page.write_text(whole, encoding="utf-8")

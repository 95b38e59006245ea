"""The report on terminals of every width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from awqc.report.printed import print_report, print_sites
from awqc.report.wording import fit_names, shorten
from tests.report.test_html import example


def printed(width: int) -> str:
    out = Console(width=width, file=io.StringIO(), highlight=False)
    report = example()
    report["layers"][0]["name"] = "model.layers.10.block_sparse_moe.experts.3.up_proj.weight"
    report["layers"][1]["name"] = "model.layers.11.block_sparse_moe.experts.3.up_proj.weight"
    report["sites"][0]["linears"] = [layer["name"] for layer in report["layers"]]
    print_report(report, out)
    print_sites(report["sites"], out)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    text = printed(width)
    assert max(len(line) for line in text.splitlines()) <= width
    table = text[: text.index("most affected")].splitlines()
    assert len(table) == 3
    assert "…10." in table[1] or width == 120
    assert "gelu <not> homogeneous" in text
    assert "rounding: gptq" in text
    assert "0.2 -> 0.1" in " ".join(text.split())


def test_names_are_shortened_in_the_middle() -> None:
    assert shorten("short", 8) == "short"
    assert len(shorten("a" * 30, 12)) == 12
    assert fit_names(["a.b.c", "a.b.d"], 10) == ["a.b.c", "a.b.d"]
    assert fit_names(["long.path.to.c", "long.path.to.d"], 6) == ["…c", "…d"]

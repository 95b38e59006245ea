"""Tables of report.html, with bars in cells."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from awqc.report.markup import Markup, join, markup, tag


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        content: what it shows.
        class_: its CSS class.
        sort: what it is sorted by; its text where None.
    """

    content: str
    class_: str | None = None
    sort: float | None = None


def text(content: str, class_: str | None = None) -> Cell:
    """A cell of words."""
    return Cell(content, class_)


def names(*given: str) -> Cell:
    """Names of tensors, one a line, that may break after a dot."""
    broken = (Markup(markup(name).replace(".", ".<wbr>")) for name in given)
    lines = [tag("span", name, class_="name line") for name in broken]
    return Cell(join(*lines), "name")


def value(number: float | None, shown: str) -> Cell:
    """A cell that shows a number; one that was not measured sorts last."""
    return Cell(shown, "number", _sort_key(number))


def bar(number: float | None, shown: str, full: float) -> Cell:
    """A number with a bar behind it that is ``number / full`` long."""
    share = 0.0 if number is None or full <= 0 else min(max(number / full, 0.0), 1.0)
    filled = tag("i", style=f"width:{share:.1%}")
    content = tag("span", filled, tag("span", shown), class_="bar")
    return Cell(content, "number", _sort_key(number))


def _sort_key(number: float | None) -> float:
    return float("inf") if number is None else float(number)


def table(
    headings: Sequence[str],
    rows: Sequence[tuple[Sequence[Cell], str | None]],
    numbers: Collection[int] = (),
    sortable: bool = True,
    class_: str = "",
) -> Markup:
    """``rows`` are cells and the row's CSS class; ``numbers`` are the columns set right."""
    head = [
        tag(
            "th",
            tag("button", heading, class_="sort") if sortable else heading,
            class_="number" if index in numbers else None,
        )
        for index, heading in enumerate(headings)
    ]
    body = [tag("tr", *map(_cell, cells), class_=class_) for cells, class_ in rows]
    whole = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body))
    return tag("div", whole, class_=f"scroll {class_}".strip())


def _cell(cell: Cell) -> Markup:
    key = None
    if cell.sort is not None:
        key = "Infinity" if cell.sort == float("inf") else f"{cell.sort:.9g}"
    return tag("td", cell.content, class_=cell.class_, data_value=key)

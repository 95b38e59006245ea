"""HTML elements as functions; text is escaped unless it is markup already."""

from __future__ import annotations

from html import escape

VOID = {"meta", "br", "hr"}


class Markup(str):
    """Text that is HTML already."""


def markup(text: str) -> Markup:
    """``text``, escaped if it is not markup yet."""
    return text if isinstance(text, Markup) else Markup(escape(text, quote=True))


def join(*children: str) -> Markup:
    """``children`` one after the other, each escaped if it is not markup yet."""
    return Markup("".join(markup(child) for child in children))


def tag(name: str, *children: str, **attributes: str | None) -> Markup:
    """An element; an attribute's trailing underscore is dropped, one that is None left out.

    >>> tag("td", "a < b", class_="number")
    '<td class="number">a &lt; b</td>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value, quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{join(*children)}</{name}>")


def section(title: str, *children: str) -> Markup:
    """A part of the page under its title."""
    return tag("section", tag("h2", title), *children)

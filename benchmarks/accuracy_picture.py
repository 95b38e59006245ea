"""Draws docs/accuracy.svg from the results of `benchmarks.accuracy`: KL divergence over bits.

A panel a model, a line a tool: of its rows those that no other of its own beats with fewer bits.
"""

from __future__ import annotations

import math
from collections import defaultdict
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.accuracy_models import MODELS

PICTURE = Path(__file__).parent.parent / "docs" / "accuracy.svg"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 60, 150, 40, 45
COLOURS = ("#0b5fa5", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#be185d", "#0f766e", "#475569")
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
Point = tuple[float, float]


def write_picture(results: dict[str, Any]) -> bool:
    """Write the picture; whether there is anything to draw."""
    panels = []
    for model, about in MODELS.items():
        lines: dict[str, list[Point]] = defaultdict(list)
        for cell in results["cells"].values():
            if cell["model"] == model and 0 < cell.get("kl", 0) <= TICKS[-1]:
                lines[cell["tool"]].append((cell["effective_bits"], cell["kl"]))
        if lines:
            panels.append((about.title, {tool: best(found) for tool, found in lines.items()}))
    if not panels:
        return False
    drawn = [_panel(index, *panel) for index, panel in enumerate(panels)]
    size = f'width="{WIDTH}" height="{HEIGHT * len(panels)}"'
    style = 'font-family="sans-serif" font-size="12"'
    PICTURE.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{"".join(drawn)}</svg>\n'
    )
    return True


def best(points: list[Point]) -> list[Point]:
    """Those that no other one beats with as few bits, by bits.

    >>> best([(4.3, 0.06), (4.5, 0.07), (4.6, 0.05)])
    [(4.3, 0.06), (4.6, 0.05)]
    """
    kept: list[Point] = []
    for point in sorted(points):
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept


def _panel(index: int, title: str, lines: dict[str, list[Point]]) -> str:
    points = [point for found in lines.values() for point in found]
    low, high = math.floor(min(x for x, _ in points)), math.ceil(max(x for x, _ in points))
    least = max([tick for tick in TICKS if tick <= min(y for _, y in points)], default=TICKS[0])
    most = min(tick for tick in TICKS if tick >= max(y for _, y in points))

    def place(bits: float, kl: float) -> Point:
        share = (math.log(kl) - math.log(least)) / (math.log(most) - math.log(least))
        across = LEFT + (bits - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    made = [f'<g transform="translate(0 {index * HEIGHT})">']
    made.append(f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>')
    for tick in (tick for tick in TICKS if least <= tick <= most):
        across, down = place(low, tick)
        made.append(f'<path d="M{across} {down:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        made.append(f'<text x="{LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for bits in range(low, high + 1):
        across, down = place(bits, least)
        made.append(
            f'<text x="{across:.1f}" y="{down + 18:.1f}" text-anchor="middle">{bits}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    made.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">bits a weight</text>')
    made.append(f'<text x="12" y="{TOP - 6}">KL, nats a word</text>')
    for number, (tool, found) in enumerate(sorted(lines.items(), key=lambda item: item[1][0][1])):
        colour = COLOURS[number % len(COLOURS)]
        spots = [place(*point) for point in found]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        made.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        made += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots]
        down, across = TOP + 18 * number, WIDTH - RIGHT + 12
        made.append(f'<circle cx="{across}" cy="{down - 4}" r="4" fill="{colour}"/>')
        made.append(f'<text x="{across + 10}" y="{down}">{escape(tool)}</text>')
    return "\n".join([*made, "</g>\n"])

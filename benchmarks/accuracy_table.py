"""Writes docs/accuracy.md from the results of `benchmarks.accuracy`: no number is typed by hand.

A gap is the perplexity above the float model's; a row says which share of rounding to nearest's
gap, at the same bits and group size, it leaves.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.accuracy_models import MODELS
from benchmarks.accuracy_picture import PICTURE, write_picture

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
NEAREST = ("awqc", "nearest")
NOT_OFFERED = "not_offered"
"""What a cell has in place of numbers where the tool has no such method."""
Rows = dict[tuple[str, str], list[dict[str, Any]]]
"""Cells of one table: seeds by tool and method."""

HEAD = """# Accuracy

Weight-only quantization of real models by awqc and by the other tools that install on a
machine without an accelerator. Everyone gets the same calibration tokens (or the first of
them, see sequences), quantizes the same linear layers (all but the head; head and embeddings stay
in float), and is measured by one script on the same held-out tokens. The weights that a tool's
model computes with are taken out of it as floats, so that kernels do not matter; a multiply that a
tool leaves in the graph at run time is multiplied into them, and its numbers are counted.

- **bits/weight**: codes, scales in 16 bits, zero points (at the width of the codes where they are
  integers, 16 bits where they are floats), and run-time scales, over the quantized weights.
- **gap left**: perplexity above the float model's, as a share of what rounding to nearest adds at
  the same bits and group size. For sentence embeddings the same, of 1 - cosine.
- **KL, same top**: divergence of the predictions from the float model's, in nats a word, and how
  often the likeliest word is the same. Rows that were measured before these columns were there
  have none.
- **CPU s, MiB**: of quantizing, calibration included, loading the model not; peak memory of the
  whole process. On one thread.
- **sequences**: of calibration text that were used. Some tools would take hours for all.
- Where there are several seeds a row shows their mean, and half their range after the sign.

All rows come out of `python -m benchmarks.accuracy`, which creates each tool's environment with
the versions below and keeps what was measured in `benchmarks/results/accuracy.json`.

What is better elsewhere: by KL, at about 4.5 bits and more, the K types of llama.cpp, of what awqc
makes for onnxruntime, whose kernel knows no blocks with a minimum of their own (rows by bits). In
llama.cpp's own types awqc's files are the better ones ([llama.cpp](llama-cpp.md)). And HQQ, on the
original SmolLM2 in groups of 32:

SmolLM2-135M comes out of 4-bit codes in blocks of 32: its weights lie on a grid that a *float* zero
point at group 32 reproduces, so a method with float zero points has an advantage there that no
other model would give it.
"""

OFF_GRID = """A second version of it was fine-tuned in float until its weights left that grid
(`benchmarks/finetune.py`).
"""


def write_page(results: dict[str, Any]) -> None:
    """Write the page."""
    parts = [HEAD]
    if write_picture(results):
        parts.append(f"![KL divergence over bits a weight, a line a tool]({PICTURE.name})\n")
    cells = list(results["cells"].values())
    if any(cell["model"] == "smollm2-finetuned" for cell in cells):
        parts.append(OFF_GRID)
    for model, about in MODELS.items():
        mine = [cell for cell in cells if cell["model"] == model]
        if not mine:
            continue
        parts.append(f"## {about.title}\n")
        reference = results["float"].get(model, {})
        if "perplexity" in reference:
            parts.append(
                f"Float: perplexity {reference['perplexity']:.3f}; forward passes over the "
                f"calibration text take {reference['forward_cpu_s']:.0f} CPU s.\n"
            )
        parts += _by_bits(about.title, mine)
        parts += _tables([cell for cell in mine if cell["bits"]], reference)
    parts.append("## Versions\n")
    parts.append(_versions(cells))
    PAGE.write_text("\n".join(parts))


def _by_bits(title: str, cells: list[dict[str, Any]]) -> list[str]:
    """All rows with a divergence, whatever their format, by bits."""
    rows: Rows = defaultdict(list)
    for cell in cells:
        if "kl" in cell:
            rows[cell["tool"], row_name(cell)].append(cell)
    if not rows:
        return []
    titles = ["bits/weight", "tool", "method", "KL", "same top", "perplexity", "CPU s", "notes"]
    lines = [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)]
    for (tool, name), seeds in sorted(
        rows.items(), key=lambda item: (item[1][0]["effective_bits"], _mean(item[1], "kl") or 0.0)
    ):
        row = [f"{seeds[0]['effective_bits']:.3f}", tool, name, _spread(seeds, "kl")]
        row += [f"{_mean(seeds, 'same_top') or 0:.1%}", _spread(seeds, "perplexity")]
        row += [f"{seeds[0]['cpu_s']:.0f}", _notes(seeds[0])]
        lines.append(f"| {' | '.join(row)} |")
    return [f"### {title}: all formats, by bits\n", "\n".join(lines) + "\n"]


def row_name(cell: dict[str, Any]) -> str:
    """A method, with bits and groups where the method leaves them open."""
    if not cell["bits"]:
        return str(cell["method"])
    group = "a channel" if cell["group_size"] == -1 else f"groups of {cell['group_size']}"
    return f"{cell['method']}, {cell['bits']} bits, {group}"


def _tables(cells: list[dict[str, Any]], reference: dict[str, float]) -> list[str]:
    """One table for each number of bits and group size."""
    found: dict[tuple[int, int], Rows] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        rows = found[cell["bits"], cell["group_size"]]
        rows[cell["tool"], cell["method"]].append(cell)
    parts = []
    for bits, group in sorted(found, key=lambda key: (-key[0], key[1] == -1, -key[1])):
        where = "a scale a channel" if group == -1 else f"groups of {group}"
        parts.append(f"### {bits} bits, {where}\n")
        parts.append(_table(found[bits, group], reference))
    return parts


def _table(rows: Rows, reference: dict[str, float]) -> str:
    metric = "perplexity" if "perplexity" in reference else "distance"
    nearest = _mean(rows.get(NEAREST, []), metric)
    base = reference.get("perplexity", 0.0)
    titles = ["tool", "method", "bits/weight", TITLES[metric], "gap left"]
    titles += ["rank correlation"] if metric == "distance" else ["KL", "same top"]
    titles += ["CPU s", "MiB", "sequences", "notes"]
    lines = [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)]
    done = {key: seeds for key, seeds in rows.items() if any(metric in cell for cell in seeds)}
    for key in sorted(done, key=lambda key: _mean(done[key], metric) or 0.0):
        good = [cell for cell in done[key] if metric in cell]
        share = _share(good, metric, base, nearest)
        row = [*key, f"{good[0]['effective_bits']:.3f}", _spread(good, metric), share]
        if metric == "distance":
            row.append(_spread(good, "rank_correlation"))
        else:
            judged = [cell for cell in good if "kl" in cell]
            row += (
                [_spread(judged, "kl"), f"{_mean(judged, 'same_top'):.1%}"] if judged else ["", ""]
            )
        row += [f"{good[0]['cpu_s']:.0f}", f"{good[0]['peak_rss_mib']:.0f}"]
        row += [str(good[0]["samples"] or "none"), _notes(good[0])]
        lines.append(f"| {' | '.join(row)} |")
    for key, seeds in sorted(rows.items()):
        if key not in done:
            gaps = " |" * (len(titles) - 3)
            lines.append(f"| {key[0]} | {key[1]} |{gaps} {_without_numbers(seeds[0])} |")
    return "\n".join(lines) + "\n"


def _without_numbers(cell: dict[str, Any]) -> str:
    """Why a cell has no numbers: the tool's own message, or that it has no such method."""
    if NOT_OFFERED in cell:
        return f"not offered: {cell[NOT_OFFERED]}"
    return f"`{' '.join(cell['error'].replace('|', chr(92) + '|').split())}`"


TITLES = {"perplexity": "perplexity", "distance": "1 - cosine"}


def _share(cells: list[dict[str, Any]], metric: str, base: float, nearest: float | None) -> str:
    """Mean share of nearest's gap over seeds, and half their range where there are several."""
    if nearest is None:
        return ""
    shares = [(cell[metric] - base) / (nearest - base) for cell in cells]
    text = f"{statistics.mean(shares):.1%}"
    return text if len(shares) == 1 else f"{text} ± {(max(shares) - min(shares)) / 2:.1%}"


def _spread(cells: list[dict[str, Any]], metric: str) -> str:
    values = [cell[metric] for cell in cells]
    digits = ".3f" if metric == "perplexity" else ".4g"
    text = f"{statistics.mean(values):{digits}}"
    return text if len(values) == 1 else f"{text} ± {(max(values) - min(values)) / 2:.2g}"


def _mean(cells: list[dict[str, Any]], metric: str) -> float | None:
    values = [cell[metric] for cell in cells if metric in cell]
    return statistics.mean(values) if values else None


def _notes(cell: dict[str, Any]) -> str:
    notes = list(cell.get("notes", ()))
    if cell.get("runtime_scales"):
        notes.insert(0, "multiplies at run time")
    return "; ".join(notes)


def _versions(cells: list[dict[str, Any]]) -> str:
    versions = sorted({package for cell in cells for package in cell.get("packages", ())})
    return "\n".join(f"- {version}" for version in versions) + "\n"

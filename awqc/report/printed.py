"""The report for people, on a terminal or in a log."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from awqc.machine.terminal import labelled
from awqc.report.wording import (
    allocation,
    byte_count,
    decibels,
    fit_names,
    group_size,
    kernels,
    number,
    percent,
    rounding,
    shorten,
    texts,
    tuned_form,
    tuning,
    where_run,
    worst_output,
)

MEASURED = {
    "word_error_rate": "word error rate",
    "accuracy": "accuracy",
    "same_texts": "same texts as the original",
    "word_error_rate_to_original": "word error rate to it",
}
OF_OUTPUTS = {"top1_agreement": "same likeliest class", "mean_iou": "mean IoU"}
"""What was measured of a model, and of its outputs, in words."""
WORST = 3
MOST_LAYERS = 40
LABEL = 9
FIGURES = 52
"""Columns that the figures of the layer table take."""


def print_report(report: Mapping[str, Any], out: Console) -> None:
    """Layers, sites, sizes, verification and time, in one screen where possible."""
    if report["layers"]:
        out.print(_layer_table(report["layers"], out.width - FIGURES))
        if len(report["layers"]) > MOST_LAYERS:
            hidden = len(report["layers"]) - MOST_LAYERS
            out.print(f"… and {hidden} layers less affected, see report.html")
        out.print(_worst(report["layers"], out.width // 2))
    out.print(_sites(report["sites"]))
    if report.get("allocation"):
        out.print(f"widths: {allocation(report['allocation'])}")
    if report["layers"]:
        out.print(f"rounding: {rounding(report['rounding'])}")
    if report["tuning"]:
        out.print(f"tuning: {tuning(report['tuning'])}")
    for entry in _grouped(report["skipped"]):
        out.print(f"left in float: {entry}")
    size = report["size"]
    out.print(
        f"size: {byte_count(size['original_bytes'])} -> {byte_count(size['quantized_bytes'])}, "
        f"{size['ratio']:.2f} times smaller"
    )
    if report["verify"]:
        print_verification(report["verify"], out)
    total = sum(report["timing_s"].values())
    slowest = sorted(report["timing_s"].items(), key=lambda item: -item[1])[:4]
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in slowest)
    out.print(f"time: {total:.1f} s ({parts})")


def _layer_table(layers: list[dict[str, Any]], width: int) -> Table:
    """All layers, or those most affected where there are more than `MOST_LAYERS`."""
    if len(layers) > MOST_LAYERS:
        ranked = sorted(layers, key=_affected)[:MOST_LAYERS]
        layers = [layer for layer in layers if layer in ranked]
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", no_wrap=True)
    for heading in ("bits", "group", "error", "output dB", "accum. dB", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    names = fit_names([layer["name"].removesuffix(".weight") for layer in layers], max(width, 18))
    for name, layer in zip(names, layers, strict=True):
        table.add_row(
            name,
            str(layer["bits"]),
            group_size(layer["group_size"]),
            percent(layer["weight_error"]),
            decibels(layer["output_sqnr_db"]),
            decibels(layer["accumulated_sqnr_db"]),
            byte_count(layer["bytes"]),
        )
    return table


def _affected(layer: dict[str, Any]) -> float:
    accumulated = layer["accumulated_sqnr_db"]
    return float("inf") if accumulated is None else float(accumulated)


def _worst(layers: list[dict[str, Any]], width: int) -> str:
    known = [layer for layer in layers if layer["accumulated_sqnr_db"] is not None]
    ranked = sorted(known, key=lambda layer: float(layer["accumulated_sqnr_db"]))[:WORST]
    names = ", ".join(
        f"{shorten(layer['name'], width)} ({decibels(layer['accumulated_sqnr_db'])} dB)"
        for layer in ranked
    )
    return f"most affected: {names}" if names else "most affected: none"


def _sites(sites: list[dict[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for site in sites:
        counts[site["status"]] = counts.get(site["status"], 0) + 1
    parts = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    losses = [s for s in sites if s["loss"] is not None]
    nearest, loss = (sum(s[key] for s in losses) for key in ("loss_nearest", "loss"))
    gain = f"; calibration loss {loss / nearest:.0%} of rounding to nearest" if nearest else ""
    return f"sites: {parts or 'none'}{gain}"


def _grouped(skipped: list[dict[str, str]]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for entry in skipped:
        by_reason.setdefault(entry["reason"], []).append(entry["name"])
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}"
        for reason, names in by_reason.items()
    ]


def print_verification(verify: Mapping[str, Any], out: Console) -> None:
    """Each exported form in each runtime, what quantization cost, and what runs fast."""
    for found in verify["comparisons"]:
        out.print(
            f"verified: {where_run(found)} = quantized within {number(found['exact']['rel'])} "
            f"(exact), {number(found['default']['rel'])} (default)"
        )
        out.print(f"kernels: {kernels(found['kernels'])}")
    if verify.get("ort"):
        out.print(tuned_form(verify["ort"]))
    original = verify["original"]
    if original is not None:
        agreement = original["argmax_agreement"]
        out.print(
            f"against the original{worst_output(original)}: "
            f"SQNR {decibels(original['sqnr_db'])} dB, "
            f"cosine {original['cosine']:.6f}, max difference {number(original['max_abs'])}"
            + (f", same argmax {agreement:.1%}" if agreement is not None else "")
        )
    for form, text in texts(verify):
        print_quality(form, text, out)
    for note in verify["notes"]:
        out.print(labelled("warning", "yellow", note))


def print_quality(form: str, text: Mapping[str, Any], out: Console) -> None:
    """Perplexity, and distance from the original where it was measured."""
    line = f"{form}: perplexity {text['perplexity']:.2f}"
    if "kl_divergence" in text:
        line += f", KL {text['kl_divergence']:.4f}, same top token {text['top1_agreement']:.1%}"
    out.print(line)


def print_measured(result: Mapping[str, Any], out: Console) -> None:
    """What a model says of data, in the terms of its task."""
    out.print(f"{result['samples']} samples of {result['data']} ({result['task']})")
    for note in result["notes"]:
        out.print(labelled("note", "bold yellow", note))
    for name, score in result["models"].items():
        found = [f"{words} {score[key]:.1%}" for key, words in MEASURED.items() if key in score]
        if found:
            out.print(f"{name}: {', '.join(found)}")
        for output, one in score.get("outputs", {}).items():
            parts = [f"cosine {one['cosine']:.6f}"]
            parts += [] if one["psnr_db"] is None else [f"PSNR {one['psnr_db']:.1f} dB"]
            parts += [f"{words} {one[key]:.1%}" for key, words in OF_OUTPUTS.items() if key in one]
            out.print(f"{name}, {output}: {', '.join(parts)}")
        for pair in score.get("different", ()):
            out.print(f"  compiled: {pair['compiled']}\n  original: {pair['original']}")


def print_sites(sites: list[dict[str, Any]], out: Console) -> None:
    """What folds where, what is tied, what is refused and why."""
    for site in sites:
        names = ", ".join(site["linears"])
        if site["status"] == "refused":
            _print_hanging("refused", "red", [names, site["reason"]], out)
            continue
        tied = (
            ""
            if site["scales"] == site["channels"]
            else (f", {site['channels']} channels tied to {site['scales']} scales")
        )
        carriers = ", ".join(site["carriers"]) or "the products' own weights"
        lines = [names, f"into {carriers}{tied}"]
        if site["reason"]:
            lines.append(f"some channels stay: {site['reason']}")
        _print_hanging("folds", "green", lines, out)


def _print_hanging(label: str, style: str, lines: list[str], out: Console) -> None:
    """``label``, and beside it ``lines``, each folded under its own beginning."""
    head = Text(f"{label:<{LABEL}}", style)
    for line in lines:
        for part in textwrap.wrap(line, max(out.width - LABEL, 40), break_on_hyphens=False):
            out.print(head + Text(part), soft_wrap=True)
            head = Text(" " * LABEL)

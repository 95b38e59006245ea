"""report.html: the report as one page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from awqc.report.compared import verification_section
from awqc.report.markup import Markup, join, section, tag
from awqc.report.tables import Cell, bar, names, table, text, value
from awqc.report.wording import (
    allocation,
    batches,
    byte_count,
    decibels,
    group_size,
    number,
    percent,
    rounding,
    tuning,
)

WORST = 3
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
STATUS = {
    "folded": "folded",
    "foldable": "foldable",
    "runtime": "at run time",
    "refused": "refused",
}


def write_html(report: Mapping[str, Any], folder: Path) -> Path:
    """Write ``report``, the content of report.json, as ``report.html`` into ``folder``."""
    path = folder / "report.html"
    path.write_text(render_html(report), encoding="utf-8")
    return path


def render_html(report: Mapping[str, Any]) -> str:
    """The page: layers, sites, verification, time, recipe and environment."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{report['model']}: quantized by awqc"),
        tag("style", _file("page.css")),
    )
    body = tag(
        "body",
        _top(report),
        _layers(report["layers"]),
        _sites(report["sites"]),
        _rounding(report),
        _skipped(report["skipped"]),
        verification_section(report["verify"]),
        _timing(report["timing_s"]),
        _background(report),
        tag("script", _file("page.js")),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _file(name: str) -> Markup:
    """A file that lies beside this one, as it is."""
    return Markup(files("awqc.report").joinpath(name).read_text(encoding="utf-8"))


def _top(report: Mapping[str, Any]) -> Markup:
    calibration, verify = report["calibration"], report["verify"]
    warnings = [
        *report["notes"],
        *(calibration["notes"] if calibration["synthetic"] else ()),
        *(verify["notes"] if verify else ()),
    ]
    return tag(
        "header",
        tag("h1", report["model"]),
        tag("p", "takes ", tag("code", ", ".join(report["inputs"])), "; calibrated on ",
            calibration["source"], class_="soft"),
        tag("p", *_verdict(report), class_="verdict"),
        *(tag("p", warning, class_="warning") for warning in warnings),
        tag("div", *_tiles(report), class_="tiles"),
    )  # fmt: skip


def _verdict(report: Mapping[str, Any]) -> list[str]:
    """Whether one may use the model, in a sentence."""
    widths = sorted({layer["bits"] for layer in report["layers"]})
    bits = " and ".join(map(str, widths))
    made = f"{len(report['layers'])} weights in {bits} bits" if widths else "no weight quantized"
    verify = report["verify"]
    if not verify or not verify["comparisons"]:
        return [f"{made}. No exported model was run."]
    runtimes = dict.fromkeys(found["runtime"] for found in verify["comparisons"])
    apart = [found["exact"]["rel"] for found in verify["comparisons"]]
    within = number(None if None in apart else max(apart))
    return [
        tag("b", "Verified."),
        f" {made}; what was exported computes what the quantized model does, within {within}, "
        f"in {' and '.join(runtimes)}.",
    ]


def _tiles(report: Mapping[str, Any]) -> list[Markup]:
    size, verify = report["size"], report["verify"]
    before, after = (byte_count(size[key]) for key in ("original_bytes", "quantized_bytes"))
    tiles = [_tile(f"{size['ratio']:.2f}×", "smaller", f"{before} → {after}")]
    if not verify:
        return tiles
    original = verify["original"]
    against = "outputs against the original"
    tiles.append(_tile(f"{decibels(original['sqnr_db'])} dB", "SQNR", against))
    if original["cosine"] is not None:
        tiles.append(_tile(f"{original['cosine']:.5f}", "cosine", against))
    if original["argmax_agreement"] is not None:
        agreement = f"{original['argmax_agreement']:.2%}"
        tiles.append(_tile(agreement, "same argmax", batches(verify["batches"])))
    for found in verify["comparisons"][:1]:
        slow = len(found["kernels"]["unfused"])
        note = f"{slow} product{'s' * (slow > 1)} not fused" if slow else "every product is fused"
        tiles.append(_tile(str(found["kernels"]["low_bit"]), "low-bit kernels", note))
    return tiles


def _tile(figure: str, label: str, note: str) -> Markup:
    return tag("div", tag("strong", figure), label, tag("span", note), class_="tile")


def _layers(layers: Sequence[Mapping[str, Any]]) -> Markup:
    """Each weight with its errors; the worst marked."""
    if not layers:
        return section("Layers", tag("p", "No weight was quantized."))
    known = [layer for layer in layers if layer["accumulated_sqnr_db"] is not None]
    worst = sorted(known, key=lambda layer: float(layer["accumulated_sqnr_db"]))
    marked = {layer["name"] for layer in worst[: min(WORST, len(layers) // 4)]}
    peak = {
        key: max((layer[key] or 0.0 for layer in layers), default=0.0)
        for key in ("weight_error", "output_sqnr_db", "accumulated_sqnr_db")
    }
    rows = []
    for layer in layers:
        cells = [
            names(layer["name"]),
            text(layer["op"]),
            value(layer["bits"], str(layer["bits"])),
            value(layer["group_size"], group_size(layer["group_size"])),
            bar(layer["weight_error"], percent(layer["weight_error"]), peak["weight_error"]),
        ]
        for key in ("output_sqnr_db", "accumulated_sqnr_db"):
            cells.append(bar(layer[key], decibels(layer[key]), peak[key]))
        cells.append(value(layer["bytes"], byte_count(layer["bytes"])))
        rows.append((cells, "worst" if layer["name"] in marked else None))
    headings = [
        "weight", "operation", "bits", "group", "weight error", "output dB", "accumulated dB",
        "size",
    ]  # fmt: skip
    return section(
        "Layers",
        tag("p", "Output dB: the layer's output when it alone is quantized. Accumulated dB: when "
            "everything before it is as well. Higher is better; the lowest are marked. ",
            "Click a heading to sort.", class_="soft"),
        table(headings, rows, numbers=range(2, 8)),
    )  # fmt: skip


def _sites(sites: Sequence[Mapping[str, Any]]) -> Markup:
    """Each site with what became of it and what the search gained."""
    if not sites:
        return section("Sites", tag("p", "There are no sites: no scales were looked for."))
    rows: list[tuple[list[Cell], str | None]] = []
    for site in sites:
        ties = "" if site["scales"] in (0, site["channels"]) else f"tied to {site['scales']}"
        share = site["loss"] / site["loss_nearest"] if site["loss_nearest"] else None
        cells = [
            names(*site["linears"]),
            text(_scales(site)),
            value(site["channels"], f"{site['channels']} {ties}".strip()),
            text(site["candidate"] or "-", "name"),
            value(site["loss_nearest"], _loss(site["loss_nearest"])),
            bar(share, "-" if share is None else f"{share:.0%}", 1.0),
        ]
        rows.append((cells, None))
    headings = [
        "weights that read it", "scales", "channels", "candidate", "loss of nearest", "left of it",
    ]  # fmt: skip
    return section(
        "Sites",
        tag("p", "A site is a value and the weights that read it. Its scales fold into what makes "
            "the value, are multiplied in at run time, or are refused. The loss is the squared "
            "output error on the calibration data.", class_="soft"),
        table(headings, rows, numbers=(2, 4, 5)),
    )  # fmt: skip


def _scales(site: Mapping[str, Any]) -> Markup:
    """What became of the scales of ``site``, and why."""
    chip = tag("span", STATUS[site["status"]], class_=f"chip {site['status']}")
    carriers: Sequence[str] = ()
    if site["status"] in ("folded", "foldable") and site["carriers"]:
        carriers = (" into ", names(*site["carriers"]).content)
    reason = tag("div", site["reason"], class_="soft") if site["reason"] else ""
    return join(chip, *carriers, reason)


def _loss(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.3g}"


def _rounding(report: Mapping[str, Any]) -> Markup:
    """How codes and scales were found, and which widths a budget bought."""
    if not report["layers"]:
        return Markup("")
    lines = [tag("p", f"Codes: {rounding(report['rounding'])}.")]
    if report["tuning"]:
        lines.append(tag("p", f"Scales tuned on the whole model: {tuning(report['tuning'])}."))
    chosen = report.get("allocation")
    if chosen:
        lines.append(tag("p", f"Widths: {allocation(chosen)}."))
        rows: list[tuple[list[Cell], str | None]] = [
            ([value(size, byte_count(size)), bar(loss, number(loss), chosen["curve"][0][1])], None)
            for size, loss in chosen["curve"]
        ]
        headings = ["size of these weights", "predicted distance"]
        lines.append(table(headings, rows, numbers=(0, 1), sortable=False, class_="narrow"))
    return section("Rounding", *lines)


def _skipped(skipped: Sequence[Mapping[str, str]]) -> Markup:
    if not skipped:
        return Markup("")
    rows = [([names(entry["name"]), text(entry["reason"])], None) for entry in skipped]
    return section("Left in float", table(["weight", "reason"], rows))


def _timing(timing: Mapping[str, float]) -> Markup:
    longest = max(timing.values(), default=0.0)
    rows = [
        ([text(name), bar(seconds, f"{seconds:.2f} s", longest)], None)
        for name, seconds in timing.items()
    ]
    total = f"Time: {sum(timing.values()):.1f} s"
    headings = ["stage", "seconds"]
    return section(total, table(headings, rows, numbers=(1,), sortable=False, class_="narrow"))


def _background(report: Mapping[str, Any]) -> Markup:
    environment = [
        join(tag("dt", key), tag("dd", "-" if item is None else str(item)))
        for key, item in report["environment"].items()
    ]
    return section(
        "Recipe and environment",
        tag("dl", *environment),
        tag("details", tag("summary", "Recipe"),
            tag("pre", json.dumps(report["recipe"], indent=2))),
    )  # fmt: skip

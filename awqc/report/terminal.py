"""The report for people, on a terminal or in a log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

WORST = 3


def console(stderr: bool = False) -> Console:
    """Where to print; without colours and not cut to a width where it is no terminal."""
    made = Console(stderr=stderr, highlight=False, soft_wrap=False)
    return made if made.is_terminal else Console(
        stderr=stderr, highlight=False, width=max(made.width, 160), no_color=True
    )


def print_report(report: Mapping[str, Any], out: Console) -> None:
    """Layers, sites, sizes, verification and time, in one screen where possible."""
    if report["layers"]:
        out.print(_layer_table(report["layers"]))
        out.print(_worst(report["layers"]))
    out.print(_sites(report["sites"]))
    for entry in _grouped(report["skipped"]):
        out.print(f"left in float: {escape(entry)}")
    size = report["size"]
    out.print(
        f"size: {_bytes(size['original_bytes'])} -> {_bytes(size['quantized_bytes'])}, "
        f"{size['ratio']:.2f} times smaller"
    )
    if report["verify"]:
        print_verification(report["verify"], out)
    total = sum(report["timing_s"].values())
    slowest = sorted(report["timing_s"].items(), key=lambda item: -item[1])[:4]
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in slowest)
    out.print(f"time: {total:.1f} s ({parts})")


def _layer_table(layers: list[dict[str, Any]]) -> Table:
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    table.add_column("layer")
    for heading in ("bits", "group", "weight error", "output dB", "accumulated dB", "size"):
        table.add_column(heading, justify="right")
    for layer in layers:
        table.add_row(
            escape(layer["name"]),
            str(layer["bits"]),
            "row" if layer["group_size"] == -1 else str(layer["group_size"]),
            f"{layer['weight_error']:.2%}",
            _decibel(layer["output_sqnr_db"]),
            _decibel(layer["accumulated_sqnr_db"]),
            _bytes(layer["bytes"]),
        )
    return table


def _worst(layers: list[dict[str, Any]]) -> str:
    known = [layer for layer in layers if layer["accumulated_sqnr_db"] is not None]
    ranked = sorted(known, key=lambda layer: float(layer["accumulated_sqnr_db"]))[:WORST]
    names = ", ".join(f"{escape(layer['name'])} ({_decibel(layer['accumulated_sqnr_db'])} dB)"
                      for layer in ranked)
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
    """The three comparisons and what runs fast."""
    if verify["export_exact"] is not None:
        exact, default = verify["export_exact"], verify["export_default"]
        out.print(
            f"verified in onnxruntime on {verify['provider']}: exported = quantized within "
            f"{_number(exact['rel'])} (exact level), {_number(default['rel'])} (default level)"
        )
        fused = f"{verify['fused_kernels']} low-bit kernels"
        if verify["unfused"]:
            fused += f", {len(verify['unfused'])} products not fused"
        if verify["dequantized"]:
            fused += f", {len(verify['dequantized'])} other weights dequantized at each run"
        out.print(f"kernels: {fused}")
    original = verify["original"]
    agreement = original["argmax_agreement"]
    out.print(
        f"against the original: SQNR {_decibel(original['sqnr_db'])} dB, "
        f"cosine {original['cosine']:.6f}, max difference {_number(original['max_abs'])}"
        + (f", same argmax {agreement:.1%}" if agreement is not None else "")
    )
    for form, text in (verify["text"] or {}).items():
        print_quality(form.replace("_", " "), text, out)
    for note in verify["notes"]:
        out.print(f"[yellow]warning:[/] {escape(note)}")


def print_quality(form: str, text: Mapping[str, Any], out: Console) -> None:
    """Perplexity, and distance from the original where it was measured."""
    line = f"{form}: perplexity {text['perplexity']:.2f}"
    if "kl_divergence" in text:
        line += f", KL {text['kl_divergence']:.4f}, same top token {text['top1_agreement']:.1%}"
    out.print(line)


def print_sites(sites: list[dict[str, Any]], out: Console) -> None:
    """What folds where, what is tied, what is refused and why."""
    for site in sites:
        names = ", ".join(site["linears"])
        if site["status"] == "refused":
            out.print(f"[red]refused[/]  {escape(names)}")
            out.print(f"         {escape(site['reason'])}")
            continue
        tied = "" if site["scales"] == site["channels"] else (
            f", {site['channels']} channels tied to {site['scales']} scales"
        )
        out.print(f"[green]folds[/]    {escape(names)}")
        carriers = ", ".join(site["carriers"]) or "the products' own weights"
        out.print(f"         into {escape(carriers)}{tied}")
        if site["reason"]:
            out.print(f"         some channels stay: {escape(site['reason'])}")


def _decibel(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2g}"


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"

"""What ``awqc bench`` found, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from awqc.report.wording import byte_count

HEADINGS = {
    "latency_ms": "latency ms",
    "prefill_tokens_per_s": "prefill tok/s",
    "decode_tokens_per_s": "decode tok/s",
    "load_s": "load s",
    "peak_rss_bytes": "peak memory",
}


def print_bench(result: Mapping[str, Any], out: Console) -> None:
    """A row for each form; in brackets how many times better than the float ONNX it is."""
    forms, ratios = result["forms"], result["ratios"]
    columns = [key for key in HEADINGS if any(form.get(key) is not None for form in forms.values())]
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    table.add_column("form", no_wrap=True)
    for key in columns:
        table.add_column(HEADINGS[key], justify="right", no_wrap=True)
    for name, form in forms.items():
        better = ratios.get("forms", {}).get(name, {})
        table.add_row(name, *(_cell(key, form.get(key), better.get(key)) for key in columns))
    out.print(table)
    load = result["workload"]
    generates = any("decode_tokens_per_s" in form for form in forms.values())
    after = f" and {load['new_tokens']} new ones" if generates else ""
    out.print(
        f"medians of {result['turns']} turns, batch {load['batch']}, "
        f"{load['tokens']} tokens{after}, {result['threads']} threads, "
        f"onnxruntime on {result['provider']}"
        + (f"; in brackets: times better than {ratios['to']}" if ratios else "")
    )


def _cell(key: str, value: float | None, better: float | None) -> str:
    if value is None:
        return "-"
    shown = byte_count(value) if key.endswith("bytes") else f"{value:.3g}"
    return shown if better is None else f"{shown} ({better:.2g}x)"

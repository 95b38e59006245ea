"""The demonstration for people, section by section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from awqc.report.wording import byte_count, decibels, shorten

NAME_WIDTH = 12
CLASSES_SHOWN = 10


def print_demo(report: Mapping[str, Any], out: Console) -> None:
    """Everything that the demonstration found, in the order in which it happens."""
    _weights(report, out)
    _activations(report, out)
    _searches(report["compiles"], out)
    _quantized(report, out)
    _errors(report["compiles"], out)
    _outputs(report["outputs"], out)
    _summary(report, out)
    for entry in report["compiles"]:
        out.print(_verdict(entry, report["data"]["test"]))
    out.print("The search lowers the error of each layer by itself, never raises it. How errors")
    out.print("add up is also chance: other seeds give other gains, now and then none.")


def _heading(number: int, text: str, out: Console) -> None:
    out.print(f"\n{number}. {text}", style="bold")


def _table(*headings: str, left: Sequence[int] = (0,)) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index in left else "right", no_wrap=True)
    return table


def _weights(report: Mapping[str, Any], out: Console) -> None:
    widths = " → ".join(str(width) for width in report["dims"])
    _heading(1, f"Original weights: {widths}, ReLU, no bias", out)
    data = report["data"]
    out.print(
        f"{report['float']['parameters']:,} parameters, {report['epochs']} epochs, seed "
        f"{report['seed']}",
        highlight=False,
    )
    out.print(f"data: {data['description']}")
    out.print(
        f"{data['train']} samples to train on, {data['calibration']} of them to calibrate, "
        f"{data['test']} held out"
    )
    for weight in report["weights"]:
        rows, columns = weight["shape"]
        out.print(
            f"{shorten(weight['name'], NAME_WIDTH)}  {rows} x {columns}, standard deviation "
            f"{weight['std']:.3f}, from {weight['min']:.3f} to {weight['max']:.3f}",
        )
        for row in weight["excerpt"]:
            out.print(_row(row, columns, "{:9.4f}"))


def _row(values: Sequence[float], columns: int, pattern: str, label: str = "") -> str:
    more = " …" if columns > len(values) else ""
    return f"  {label}" + "".join(pattern.format(value) for value in values) + more


def _label(text: str) -> str:
    return f"{text:<11}"


def _activations(report: Mapping[str, Any], out: Console) -> None:
    _heading(2, "Activations: what each layer reads, by channel", out)
    table = _table(
        "layer", "channels", "silent", "mean|x|", "top tenth", "loudest channels", left=(0, 5)
    )
    for entry in report["activations"]:
        loudest = ", ".join(f"#{top['channel']} {top['mean']:.2f}" for top in entry["top"][:3])
        table.add_row(
            shorten(entry["name"], NAME_WIDTH),
            str(entry["channels"]),
            str(entry["silent"]),
            f"{entry['mean']:.3f}",
            f"{entry['top_tenth_share']:.0%}",
            loudest,
        )
    out.print(table)
    out.print("silent: always zero; top tenth: the share of all mean|x| in the loudest tenth")


def _searches(compiles: Sequence[Mapping[str, Any]], out: Console) -> None:
    _heading(3, "Scale search: x^a/w^b is mean|x|^a / mean|w|^b", out)
    for entry in compiles:
        table = _table(
            f"{entry['bits']} bits", "scales go into", "candidate", "nearest", "chosen", "left",
            left=(0, 1, 2),
        )  # fmt: skip
        for site in entry["sites"]:
            into = {"folded": ", ".join(site["carriers"]), "runtime": "a multiply at run time"}
            table.add_row(
                shorten(", ".join(site["linears"]), NAME_WIDTH),
                shorten(into.get(site["status"], "nothing: refused"), 22),
                site["candidate"] or "-",
                _loss(site["loss_nearest"]),
                _loss(site["loss"]),
                f"{site['loss'] / site['loss_nearest']:.0%}" if site["loss_nearest"] else "-",
            )
        out.print(table)
    out.print("nearest, chosen: squared output error a sample, without scales and with")
    for site in compiles[0]["sites"]:
        if site["status"] != "folded":
            out.print(f"{', '.join(site['linears'])} cannot fold: {site['reason']}")


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _quantized(report: Mapping[str, Any], out: Console) -> None:
    _heading(4, "Quantized weights: codes, and what they stand for with scales undone", out)
    for index, weight in enumerate(report["weights"]):
        columns = weight["shape"][1]
        out.print(f"{weight['name']}, first row")
        out.print(_row(weight["excerpt"][0], columns, "{:9.4f}", _label("original")))
        for entry in report["compiles"]:
            codes, bits = entry["quantized"][index], f"{entry['bits']}-bit"
            code = _row(codes["codes"][0], columns, "{:9.0f}", _label(f"{bits} code"))
            out.print(code, style="dim")
            out.print(_row(codes["restored"][0], columns, "{:9.4f}", _label(f"{bits} value")))
    if any(entry["silent"] for entry in report["activations"]):
        out.print("A weight that reads a silent channel may be far off: it costs nothing.")


def _errors(compiles: Sequence[Mapping[str, Any]], out: Console) -> None:
    _heading(5, "Error of each layer, alone and piled up along the network", out)
    for entry in compiles:
        table = _table(
            f"{entry['bits']} bits", "weight error", "output dB", "piled up dB",
            "nearest error", "piled up dB",
        )  # fmt: skip
        rounded = {layer["name"]: layer for layer in entry["nearest"]["layers"]}
        for layer in entry["awq"]["layers"]:
            other = rounded[layer["name"]]
            table.add_row(
                shorten(layer["name"], NAME_WIDTH),
                f"{layer['weight_error']:.2%}",
                decibels(layer["output_sqnr_db"]),
                decibels(layer["accumulated_sqnr_db"]),
                f"{other['weight_error']:.2%}",
                decibels(other["accumulated_sqnr_db"]),
            )
        out.print(table)
        out.print(f"most affected: {_worst(entry['awq']['layers'])}")


def _worst(layers: Sequence[Mapping[str, Any]]) -> str:
    measured = [layer for layer in layers if layer["output_sqnr_db"] is not None]
    if not measured:
        return "none"
    worst = min(measured, key=lambda layer: float(layer["output_sqnr_db"]))
    return f"{worst['name']}, {decibels(worst['output_sqnr_db'])} dB by itself"


def _outputs(samples: Sequence[Mapping[str, Any]], out: Console) -> None:
    _heading(6, "Outputs before and after; the last sample is the one that moved most", out)
    for sample in samples:
        rows = {key: row for key, row in sample.items() if isinstance(row, list)}
        out.print(f"held-out sample {sample['sample']}, class {sample['class']}")
        for key, row in rows.items():
            shown = " ".join(f"{value:5.1f}" for value in row[:CLASSES_SHOWN])
            more = " …" if len(row) > CLASSES_SHOWN else ""
            out.print(f"  {key:<6} {shown}{more} -> {row.index(max(row))}")


def _summary(report: Mapping[str, Any], out: Console) -> None:
    _heading(7, f"Compared, on {report['data']['test']} held-out samples", out)
    table = _table("", "in torch", "onnxruntime", "SQNR dB", "size", "ratio")
    first = report["compiles"][0]["awq"]["size"]["original_bytes"]
    table.add_row("float", f"{report['float']['accuracy']:.2%}", "", "", byte_count(first), "")
    for entry in report["compiles"]:
        for key, label in (("awq", "AWQ"), ("nearest", "nearest")):
            result = entry[key]
            table.add_row(
                f"{label}, {entry['bits']} bits",
                f"{result['accuracy']['torch']:.2%}",
                f"{result['accuracy']['onnxruntime']:.2%}",
                decibels(result["original"]["sqnr_db"]),
                byte_count(result["size"]["quantized_bytes"]),
                f"{result['size']['ratio']:.2f}",
            )
    out.print(table)


def _verdict(entry: Mapping[str, Any], samples: int) -> str:
    """What the numbers say, whichever way they turn out."""
    awq, nearest = entry["awq"], entry["nearest"]
    ours, theirs = awq["original"]["rel"], nearest["original"]["rel"]
    size = awq["size"]
    smaller = 1 - size["quantized_bytes"] / size["original_bytes"]
    gain = round((awq["accuracy"]["torch"] - nearest["accuracy"]["torch"]) * samples)
    plural = "" if abs(gain) == 1 else "s"
    right = f"{abs(gain)} sample{plural} {'more' if gain > 0 else 'fewer'}" if gain else "as many"
    error = f"{ours / theirs:.0%} of nearest's output error" if theirs else "no error"
    return f"{entry['bits']} bits: {smaller:.1%} smaller, {error}, {right} right"


def print_next(folder: Path, bits: int, out: Console) -> None:
    """Where things lie, and what to do with them."""
    made = folder / f"{bits}-bit"
    for line in (
        f"\nwrote {folder}: model.pt, its data, and a folder for each width. Next:",
        f"  look at {made / 'report.html'}",
        f"  awqc explain {folder / 'model.pt'}",
        f"  awqc compile {folder / 'model.pt'} --calib {folder / 'calib.npz'} --bits 3",
        f"  awqc verify {made} --calib {folder / 'test.npz'} --against {folder / 'model.pt'}",
    ):
        out.print(line, soft_wrap=True)

"""How numbers and names are written for people; for terminals and pages alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

ELLIPSIS = "…"


def decibels(value: float | None) -> str:
    """One decimal; ``-`` where nothing was measured, or nothing is lost."""
    return "-" if value is None else f"{value:.1f}"


def percent(value: float | None) -> str:
    """Two decimals; what is None in a report was not finite."""
    return "not finite" if value is None else f"{value:.2%}"


def number(value: float | None) -> str:
    """Two digits; what is None in a report was not finite."""
    return "not finite" if value is None else f"{value:.2g}"


def byte_count(count: float) -> str:
    """Bytes with three to four digits and a decimal unit.

    >>> byte_count(296960)
    '297 KB'
    """
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.3g} GB"


def batches(count: int) -> str:
    """How much was compared.

    >>> batches(1)
    '1 held-out batch'
    """
    return f"{count} held-out batch" + ("" if count == 1 else "es")


def group_size(size: int) -> str:
    """``row`` for one scale a row."""
    return "row" if size == -1 else str(size)


def tuned_form(ort: Mapping[str, Any]) -> str:
    """One sentence about onnxruntime's own form, of ``verify.ort`` in a report.

    >>> tuned_form({"levels": {"1": 2, "4": 30}, "tables": 1, "left": {}})
    'ort form: 2 products at level 1, 30 at level 4, 1 table'
    """
    counts = [f"{count} at level {level}" for level, count in ort["levels"].items()]
    if counts:
        counts[0] = counts[0].replace(" at", " products at", 1)
    if ort["tables"]:
        counts.append(f"{ort['tables']} table{'s' if ort['tables'] > 1 else ''}")
    if ort["left"]:
        counts.append(f"{len(ort['left'])} left in QDQ form")
    return f"ort form: {', '.join(counts)}"


def worst_output(gap: Mapping[str, Any]) -> str:
    """Which output the numbers of a comparison are of, where there are several.

    >>> worst_output({"worst": "y", "outputs": {"x": {}, "y": {}}}), worst_output({})
    (' (y, the worst of 2 outputs)', '')
    """
    count = len(gap.get("outputs", {}))
    return f" ({gap['worst']}, the worst of {count} outputs)" if count > 1 else ""


def where_run(found: Mapping[str, Any]) -> str:
    """Which form was run where, of an entry of ``verify.comparisons`` in a report.

    >>> where_run({"form": "onnx", "runtime": "openvino", "provider": "cpu"})
    'onnx in openvino on cpu'
    """
    return f"{found['form']} in {found['runtime']} on {found['provider']}"


def kernels(found: Mapping[str, Any]) -> str:
    """How a runtime computes with quantized weights, of ``kernels`` of a comparison.

    >>> kernels({"low_bit": 1, "precision": "f32", "unfused": ["a", "b"], "dequantized": ["c"]})
    '1 low-bit kernel (f32), 2 products without one, 1 other weight without one'
    """
    count, slow, other = found["low_bit"], len(found["unfused"]), len(found["dequantized"])
    parts = [f"{count} low-bit kernel{'s' * (count != 1)} ({found['precision']})"]
    parts += [f"{slow} product{'s' * (slow > 1)} without one"] if slow else []
    parts += [f"{other} other weight{'s' * (other > 1)} without one"] if other else []
    return ", ".join(parts)


def texts(verify: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Names and text qualities of all forms of a language model, of ``verify`` in a report."""
    found = list((verify["text"] or {}).items())
    for comparison in verify["comparisons"]:
        for arithmetic, text in (comparison["text"] or {}).items():
            found.append((f"{where_run(comparison)}, {arithmetic}", text))
    return found


def rounding(how: Mapping[str, Any]) -> str:
    """How codes were found, of ``rounding`` in a report.

    >>> rounding({"method": "gptq", "clip": True, "sweeps": 1})
    'gptq, ranges searched, 1 sweep of coordinate descent'
    """
    parts = ["to nearest" if how["method"] == "nearest" else how["method"]]
    parts += ["ranges searched"] if how["clip"] else []
    if how["sweeps"]:
        parts.append(f"{how['sweeps']} sweep{'s' * (how['sweeps'] > 1)} of coordinate descent")
    return ", ".join(parts)


def tuning(found: Mapping[str, Any]) -> str:
    """What tuning scales came to, of ``tuning`` in a report.

    >>> tuning({"kept": True, "batches": 14, "before": 0.2, "after": 0.1, "reason": ""})
    'on 14 batches; distance from the float outputs on held-back ones 0.2 -> 0.1'
    >>> tuning({"kept": False, "before": None, "reason": "no weight has fewer than 8 bits"})
    'scales stay, no weight has fewer than 8 bits'
    """
    measured = found["before"] is not None
    change = f"{number(found['before'])} -> {number(found['after'])}" if measured else ""
    if not found["kept"]:
        return f"scales stay, {found['reason']}" + (f" ({change})" if measured else "")
    return (
        f"on {found['batches']} batch{'es' * (found['batches'] > 1)}; distance from the float "
        f"outputs on held-back ones {change}"
    )


def allocation(found: Mapping[str, Any]) -> str:
    """How many weights got which width, of ``allocation`` in a report.

    >>> found = {"bits": {"a": 4, "b": 8, "c": 4}, "size": 1200, "loss": 0.0125}
    >>> allocation({**found, "groups": {"c": 32}})
    '2 weights in 4 bits, 1 in 8, 1 in groups of 32, 1.2 KB, predicted distance 0.013'
    """
    widths = list(found["bits"].values())
    counts = [f"{widths.count(bits)} in {bits}" for bits in sorted(set(widths))]
    counts[0] = counts[0].replace(" in", f" weight{'s' * (counts[0][:2] != '1 ')} in") + " bits"
    groups = list(found.get("groups", {}).values())
    counts += [f"{groups.count(each)} in groups of {each}" for each in sorted(set(groups))]
    size, loss = byte_count(found["size"]), number(found["loss"])
    return ", ".join([*counts, size, f"predicted distance {loss}"])


def shorten(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters; what is left out comes from the middle.

    The end says most about a weight's name, so it gets the larger half.

    >>> shorten("model.layers.0.self_attn.q_proj.weight", 24)
    'model.laye…q_proj.weight'
    """
    if len(text) <= width:
        return text
    kept = max(width - len(ELLIPSIS), 2)
    head = kept * 9 // 20
    return text[:head] + ELLIPSIS + text[-(kept - head) :]


def fit_names(names: Sequence[str], width: int) -> list[str]:
    """``names`` in ``width`` characters; first goes the path that all share, which says least.

    >>> fit_names(["model.layers.0.attn.q", "model.layers.1.attn.q"], 10)
    ['…0.attn.q', '…1.attn.q']
    """
    if all(len(name) <= width for name in names):
        return list(names)
    parts = [name.split(".") for name in names]
    heads = zip(*(part[:-1] for part in parts), strict=False)
    shared = sum(1 for _ in takewhile(lambda head: len(set(head)) == 1, heads))
    if shared:
        names = [ELLIPSIS + ".".join(part[shared:]) for part in parts]
    return [shorten(name, width) for name in names]

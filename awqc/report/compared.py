"""The section of report.html on verification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from awqc.report.markup import Markup, section, tag
from awqc.report.tables import Cell, table, text, value
from awqc.report.wording import (
    batches,
    decibels,
    kernels,
    number,
    texts,
    tuned_form,
    where_run,
    worst_output,
)


def verification_section(verify: Mapping[str, Any] | None) -> Markup:
    """The comparisons, the runtimes, and what runs slowly."""
    if not verify:
        return section("Verification", tag("p", "Nothing was verified."))
    rows = [(_gap("What did quantization cost?", "quantized against original",
                  verify["original"]), None)]  # fmt: skip
    for found in verify["comparisons"]:
        where = where_run(found)
        for key, what, question in _QUESTIONS:
            if found[key] is not None:
                rows.append((_gap(question, f"{where}, {what}", found[key]), None))
    return section(
        "Verification",
        tag("p", f"On {batches(verify['batches'])}.", class_="soft"),
        table(["question", "compared", "relative error", "largest difference", "SQNR dB",
               "same argmax"], rows, numbers=range(2, 6), sortable=False),
        *(tag("p", line) for line in map(_quality, texts(verify))),
        *(_kernels(found) for found in verify["comparisons"]),
        tag("p", tuned_form(verify["ort"])) if verify.get("ort") else "",
    )  # fmt: skip


_QUESTIONS = (
    ("exact", "computed exactly, against quantized", "Is the exporter right?"),
    ("default", "as a session runs it, against quantized",
     "What does the runtime's own arithmetic add?"),
    ("original", "as a session runs it, against original", "What will a user get?"),
)  # fmt: skip


def _gap(question: str, what: str, gap: Mapping[str, Any]) -> list[Cell]:
    cells = [text(question), text(what + worst_output(gap))]
    cells += [value(gap[part], number(gap[part])) for part in ("rel", "max_abs")]
    sqnr, agreement = gap.get("sqnr_db"), gap.get("argmax_agreement")
    cells.append(value(sqnr, decibels(sqnr)))
    cells.append(value(agreement, "-" if agreement is None else f"{agreement:.2%}"))
    return cells


def _kernels(found: Mapping[str, Any]) -> Markup:
    """How a runtime computes with quantized weights, and the names of those that run slowly."""
    told = found["kernels"]
    slow = [*told["unfused"], *told["dequantized"]]
    names_of = (": ", tag("code", ", ".join(slow))) if slow else ()
    return tag("p", f"{where_run(found)}: {kernels(told)}", *names_of)


def _quality(named: tuple[str, Mapping[str, Any]]) -> str:
    """Perplexity of a form of a language model, and how far it is from the original's."""
    form, measured = named
    line = f"{form}: perplexity {measured['perplexity']:.2f}"
    if "kl_divergence" in measured:
        line += (
            f", KL divergence {measured['kl_divergence']:.4f}, "
            f"same top token {measured['top1_agreement']:.1%}"
        )
    return line

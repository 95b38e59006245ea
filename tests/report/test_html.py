"""report.html."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from awqc.report.html import render_html, write_html
from awqc.report.markup import Markup, join, tag

VOID = {"meta", "wbr", "br"}


def example() -> dict[str, Any]:
    """A small report with names that are no HTML."""
    gap = {"max_abs": 0.1, "rel": 0.01, "sqnr_db": 40.0, "cosine": 0.9999, "argmax_agreement": 1.0}
    compared = {
        "runtime": "a<runtime>", "form": "onnx", "provider": "cpu", "original": gap,
        "exact": {"max_abs": 1e-6, "rel": 1e-7}, "default": {"max_abs": None, "rel": None},
        "kernels": {"low_bit": 1, "unfused": ["slow<i>"], "dequantized": [], "precision": "f<32"},
        "text": {"exact": {"tokens": 3, "perplexity": 12.5}},
    }  # fmt: skip
    layer = {
        "op": "linear", "bits": 4, "group_size": 128, "weight_error": 0.08, "output_sqnr_db": 20.0,
        "accumulated_sqnr_db": None, "bytes": 1000,
    }  # fmt: skip
    site = {
        "value": "x", "carriers": ["norm.weight"], "channels": 64, "candidate": "x^0.5/w^0",
        "loss_nearest": 2.0, "loss": 1.0,
    }  # fmt: skip
    return {
        "schema": 1,
        "model": "<script>alert(1)</script>",
        "inputs": ["x=float32[batch,64]"],
        "outputs": ["y"],
        "calibration": {"source": "a<b.npz", "synthetic": True, "notes": ["made & up"]},
        "sites": [
            {**site, "name": "a", "linears": ["q", "k"], "status": "folded", "reason": "",
             "scales": 16},
            {**site, "name": "b", "linears": ["down"], "status": "refused", "loss": None,
             "loss_nearest": None, "reason": "gelu <not> homogeneous", "scales": 0},
        ],
        "layers": [
            {**layer, "name": "up<b>"},
            {**layer, "name": "zeros", "group_size": -1, "output_sqnr_db": None},
        ],
        "rounding": {"method": "gptq", "clip": True, "sweeps": 0},
        "tuning": {"kept": True, "batches": 3, "before": 0.2, "after": 0.1, "reason": ""},
        "notes": ["sizes are <fixed>"],
        "allocation": {"bits": {"up<b>": 4}, "size": 900, "loss": 0.1,
                       "curve": [[900, 0.1], [1800, 0.01]]},
        "skipped": [{"name": "head", "reason": "tied & kept"}],
        "size": {"original_bytes": 8000, "quantized_bytes": 2000, "ratio": 4.0},
        "verify": {
            "original": gap, "comparisons": [compared], "batches": 2, "notes": [], "text": None,
        },
        "timing_s": {"capture": 1.0, "data": 0.0},
        "recipe": {"pipeline": "a,b{c=1}"},
        "environment": {"python": "3.12", "cuda": None},
    }  # fmt: skip


class Reader(HTMLParser):
    """Collects text and tags, and checks that what opens closes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_everything_is_shown_and_escaped() -> None:
    report = example()
    page = render_html(report)
    reader = read(page)
    text = "".join(reader.words)
    wanted = [layer["name"] for layer in report["layers"]]
    wanted += [name for site in report["sites"] for name in site["linears"]]
    wanted += [site["reason"] for site in report["sites"]]
    wanted += ["head", "tied & kept", "made & up", "slow<i>", report["model"], "a<b.npz"]
    wanted += ["tied to 16", "50%", "not finite", "gptq, ranges searched", "on 3 batches"]
    wanted += ["1 weight in 4 bits", "1.8 KB", "f<32", "onnx in a<runtime> on cpu, exact: "]
    wanted += ["perplexity 12.50", "within 1e-07, in a<runtime>"]
    for word in wanted:
        assert word in text
    assert "<script>alert" not in page
    assert "<b>" not in page.replace("<b>Verified", "")


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = render_html(example())
    for name, attributes in read(page).tags:
        assert name not in ("link", "img", "iframe")
        assert "src" not in attributes
        assert "href" not in attributes
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page


def test_a_report_without_verification_or_layers() -> None:
    report = example() | {"verify": None, "layers": [], "sites": [], "skipped": [], "timing_s": {}}
    text = "".join(read(render_html(report)).words)
    assert "Nothing was verified" in text
    assert "no weight quantized" in text


def test_a_report_without_an_exported_model() -> None:
    report = example()
    report["verify"]["comparisons"] = []
    assert "No exported model was run" in "".join(read(render_html(report)).words)


def test_the_file(tmp_path: Path) -> None:
    path = write_html(example(), tmp_path)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_markup_is_escaped_once() -> None:
    assert tag("p", "a<b", Markup("<i>c</i>"), title='"') == '<p title="&quot;">a&lt;b<i>c</i></p>'
    assert join(join("&")) == "&amp;"

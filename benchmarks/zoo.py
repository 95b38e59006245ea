"""Compile small random models of every architecture, and write what came of it.

    python -m benchmarks.zoo --limit 40        # compiles the next 40, then writes the page
    python -m benchmarks.zoo --only causal-lm/llama

Each model is compiled in a process of its own, under a time limit. Results are kept, one line
a model, in ``zoo.jsonl`` in the cache directory; a model that is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import zoo_probe
from benchmarks.isolated import Reached, isolated
from benchmarks.models import cache_directory
from benchmarks.zoo_models import build, names

PAGE = Path(__file__).parent.parent / "docs" / "coverage.md"
EXACT = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="names, even if they were run before")
    parser.add_argument("--limit", type=int, default=10**6, help="how many new models to run")
    parser.add_argument("--timeout", type=float, default=240, help="seconds a model")
    parser.add_argument("--cache", type=Path, default=cache_directory() / "zoo.jsonl")
    parser.add_argument("--effort", default="default", help="of awqc compile")
    parser.add_argument("--page", action="store_true", help="only write the page")
    chosen = parser.parse_args()
    results = _read(chosen.cache)
    if not chosen.page:
        wanted = chosen.only or [n for n in names() if n not in results][: chosen.limit]
        chosen.cache.parent.mkdir(parents=True, exist_ok=True)
        for name in wanted:
            results[name] = isolated(
                partial(run_one, name, chosen.effort), chosen.timeout, stage="build"
            )
            print(_line(name, results[name]), flush=True)
            with chosen.cache.open("a") as file:
                file.write(json.dumps({"name": name, **results[name]}) + "\n")
    PAGE.write_text(_page(results, len({*names(), *results})))


def _read(path: Path) -> dict[str, dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {entry["name"]: entry for entry in map(json.loads, lines)}


def run_one(
    name: str, effort: str = "default", reached: Reached = lambda stage: None
) -> dict[str, Any]:
    """Build, run and compile one model; what went wrong first, if anything."""
    import torch

    from awqc.compiler import compile_graph as compile_model

    torch.set_num_threads(1)
    try:
        model, inputs = build(name)
        with torch.no_grad():
            model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    except Exception as error:  # noqa: BLE001 - whatever keeps a shrunken model from running
        return _failure("build", error)
    reached("compile")
    try:
        result = compile_model(model, inputs, num_samples=8, formats=("onnx",), effort=effort)
    except Exception as error:  # noqa: BLE001 - the page is about what goes wrong
        return _failure("compile", error)
    return _summary(result.report)


def _failure(stage: str, error: BaseException) -> dict[str, Any]:
    text = " ".join(str(error).split())
    kinds = [base.__name__ for base in type(error).__mro__]
    trace, last = error.__traceback__, ""
    while trace is not None:
        last = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return {
        "stage": stage,
        "type": type(error).__name__,
        "deliberate": "AwqcError" in kinds,
        "error": text[:400],
        "at": last,
    }


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    sites, exported = report["sites"], report["verify"]["comparisons"][0]
    return {
        "stage": "done",
        "status": dict(Counter(site["status"] for site in sites)),
        "reasons": dict(Counter(s["reason"] for s in sites if s["status"] != "folded")),
        "linears": sum(len(site["linears"]) for site in sites),
        "folded_linears": sum(len(s["linears"]) for s in sites if s["status"] == "folded"),
        "export_rel": exported["exact"]["rel"],
        "fused": exported["kernels"]["low_bit"],
        "unfused": len(exported["kernels"]["unfused"]),
        "skipped": [f"{s['name']}: {s['reason']}" for s in report["skipped"]][:5],
    }


def _ok(result: dict[str, Any]) -> bool:
    rel = result.get("export_rel")
    return result["stage"] == "done" and rel is not None and rel <= EXACT


def _line(name: str, result: dict[str, Any]) -> str:
    """One row of the page."""
    if result["stage"] != "done":
        return f"| {name} | {result['stage']} failed | | | | {_plain(_problem(result))} |"
    status = result["status"]
    counts = f"{status.get('folded', 0)} / {status.get('runtime', 0)} / {status.get('refused', 0)}"
    rel = result["export_rel"]
    measured = "not measured" if rel is None else f"{rel:.0e}"
    return (
        f"| {name} | compiled | {counts} | {measured} | {result['fused']} | "
        f"{_plain(_problem(result))} |"
    )


def _problem(result: dict[str, Any]) -> str:
    """The first thing that went wrong."""
    if result["stage"] != "done":
        return f"{result.get('type', '')} {result.get('at', '')}: {result['error']}"
    if not _ok(result):
        return f"the ONNX model differs by {result['export_rel']}"
    if result["unfused"]:
        return f"{result['unfused']} weights run unfused"
    reasons = result["reasons"]
    return max(reasons, key=reasons.get) if reasons else ""


def _plain(text: str, length: int = 160) -> str:
    text = re.sub(r"/\S*/", "", text).replace("|", "/")
    return text if len(text) <= length else text[:length] + " …"


def _page(results: dict[str, dict[str, Any]], known: int) -> str:
    built = {name: r for name, r in results.items() if r["stage"] != "build"}
    good = [name for name, r in built.items() if _ok(r)]
    stray = [n for n, r in built.items() if r["stage"] != "done" and not r.get("deliberate")]
    total = {
        key: sum(r.get("status", {}).get(key, 0) for r in built.values())
        for key in ("folded", "runtime", "refused")
    }
    rows = [_line(name, built[name]) for name in sorted(built)]
    out = [_line(name, r) for name, r in sorted(results.items()) if r["stage"] == "build"]
    head = [
        "| model | result | folded / runtime / refused | ONNX error | fused | first problem |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join(
        [
            "# Coverage",
            "",
            "Small random-weight models, compiled at 4 bits with random calibration data. Written "
            "by `python -m benchmarks.zoo`; do not edit.",
            "",
            f"- {len(results)} of {known} models tried, {len(built)} build and run from a shrunken "
            "configuration.",
            f"- {len(good)} of {len(built)} compiled, with an ONNX model equal to the graph "
            f"module within {EXACT:g} (relative, exact level).",
            f"- {len(stray)} ended in an error that awqc did not raise on purpose, or in time.",
            f"- Sites: {total['folded']} folded, {total['runtime']} scaled at run time, "
            f"{total['refused']} refused.",
            *_probe_lines(zoo_probe.read()),
            "",
            *head,
            *rows,
            "",
            "## Not built",
            "",
            "The harness could not shrink these; nothing is known about them.",
            "",
            *head,
            *out,
            "",
        ]
    )


def _probe_lines(probed: dict[str, dict[str, Any]]) -> list[str]:
    """What numbers alone say of the sites, see `benchmarks.zoo_probe`."""
    done = {name: found for name, found in probed.items() if found["stage"] == "done"}
    if not done:
        return []
    missed = [(name, site) for name, found in done.items() for site in found["missed"]]
    lines = [
        f"- A numeric probe that knows no rule (`benchmarks/zoo_probe.py`) looked at "
        f"{sum(found['sites'] for found in done.values())} sites of {len(done)} models; at "
        f"{len(missed)} it allows more independent scales than the analysis found. Some are no "
        "folds: a channel on which the data never bends an activation looks free to it.",
    ]
    lines += [
        f"  - {name}, {_plain(site['weight'])}: {site['found']} found, "
        f"{site['possible']} possible; {_plain(site['reason']) or 'folds'}"
        for name, site in missed
    ]
    return lines


if __name__ == "__main__":
    main()

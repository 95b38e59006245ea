"""Compare the analysis with what numbers alone say, on the small models of the zoo.

    python -m benchmarks.zoo_probe --limit 20
    python -m benchmarks.zoo_probe --only causal-lm/llama

For each site, `benchmarks.probe` counts the independent scales that some fold could absorb, without
a rule; the analysis should have found as many. Results are kept, one line a model, in
``zoo-probe.jsonl`` in the cache directory, and go into docs/coverage.md with the next run of
`benchmarks.zoo`.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.isolated import Reached, isolated
from benchmarks.models import cache_directory
from benchmarks.zoo_models import build, names

RESULTS = cache_directory() / "zoo-probe.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="names, even if they were run before")
    parser.add_argument("--limit", type=int, default=10**6, help="how many new models to run")
    parser.add_argument("--timeout", type=float, default=300, help="seconds a model")
    parser.add_argument("--freedoms", type=int, default=2500, help="leave larger models out")
    parser.add_argument("--cache", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    there = read(chosen.cache)
    wanted = chosen.only or [name for name in names() if name not in there][: chosen.limit]
    chosen.cache.parent.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        found = isolated(partial(probe, name, chosen.freedoms), chosen.timeout, stage="build")
        print(name, json.dumps(found), flush=True)
        with chosen.cache.open("a") as file:
            file.write(json.dumps({"name": name, **found}) + "\n")


def read(path: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """What was found so far, by model."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {entry["name"]: entry for entry in map(json.loads, lines)}


def probe(name: str, most: int, reached: Reached = lambda stage: None) -> dict[str, Any]:
    """The sites of one model at which numbers allow more scales than the analysis found."""
    import torch
    from torch.utils import _pytree as pytree

    from awqc.capture.module import capture_module
    from awqc.channels.analysis import find_sites
    from awqc.passes.canonicalize import Canonicalize
    from benchmarks.probe import Probe, count_freedoms

    torch.set_num_threads(1)
    try:
        model, inputs = build(name)
        wide = pytree.tree_map_only(torch.Tensor, _double, inputs)
        reached("capture")
        program = capture_module(model.double(), wide)
        Canonicalize().apply(program)
        program.tidy()
        freedoms = count_freedoms(program)
        if freedoms > most:
            return {"stage": "too large", "freedoms": freedoms}
        reached("probe")
        sites = find_sites(program)
        compared = Probe(program).compare(sites)
    except Exception as error:  # noqa: BLE001 - what cannot be probed is told, with the reason
        return {"stage": "failed", "error": f"{type(error).__name__}: {error}"[:300]}
    missed = [
        {"weight": c.weight, "found": c.found, "possible": c.possible, "reason": site.reason}
        for c, site in zip(compared, sites, strict=True)
        if c.found < c.possible
    ]
    return {"stage": "done", "freedoms": freedoms, "sites": len(compared), "missed": missed}


def _double(value: Any) -> Any:
    return value.double() if value.is_floating_point() else value


if __name__ == "__main__":
    main()

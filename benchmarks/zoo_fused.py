"""What becomes of attention in every causal decoder that transformers knows, small and random.

    python -m benchmarks.zoo_fused                  # goes on with those that were not run yet
    python -m benchmarks.zoo_fused --only gemma2

Each is written as a folder, captured with its cache, rounded to 8 bits, and exported in
onnxruntime's own form, in a process of its own. Results are kept, one line a model, in
``zoo-fused.jsonl`` in the cache directory; the page is docs/fused-decoders.md. What has no cache is
left out of the count.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.isolated import Reached, isolated
from benchmarks.models import cache_directory

RESULTS = cache_directory() / "zoo-fused.jsonl"
PAGE = Path(__file__).parent.parent / "docs" / "fused-decoders.md"
TASK = "causal-lm"
DONE = "fused"
ROWS_AND_SCORES = 2
SHOWN = 110
"""Letters of a reason that the page has."""


def main() -> None:
    """Run what is left, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="kinds, even if they were run before")
    parser.add_argument("--timeout", type=float, default=120, help="seconds a model")
    parser.add_argument("--limit", type=int, default=10**6)
    parser.add_argument("--page", action="store_true", help="only write the page")
    given = parser.parse_args()
    there = _read()
    wanted = [] if given.page else given.only or [kind for kind in _kinds() if kind not in there]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    for kind in wanted[: given.limit]:
        found = isolated(partial(fuse_one, kind), given.timeout, stage="build")
        print(kind, json.dumps(found), flush=True)
        with RESULTS.open("a") as file:
            file.write(json.dumps({"kind": kind, **found}) + "\n")
    PAGE.write_text(_page(_read()))


def fuse_one(kind: str, reached: Reached = lambda stage: None) -> dict[str, Any]:
    """Attentions in one operation with their cache, and reasons of the others."""
    import onnx
    import torch

    from awqc.errors import AwqcError
    from awqc.export.onnx import export_onnx
    from awqc.export.ort import export_ort
    from awqc.export.ort_report import describe_ort
    from awqc.huggingface.capture import load_folder
    from awqc.kv_cache import POSITIONS
    from awqc.targets.base import CACHED_ATTENTION, LINEAR_ATTENTION
    from benchmarks.width_models import quantize
    from benchmarks.zoo_models import build

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            model: Any = build(f"{TASK}/{kind}")[0]
            model.save_pretrained(folder)
        except Exception as error:  # noqa: BLE001 - transformers does not build it so small
            return {"stage": "not built", "error": f"{type(error).__name__}: {error}"[:300]}
        try:
            reached("capture")
            program = load_folder(folder)
            if not program.states:
                return {"stage": "no cache"}
            quantize(program, bits=8, group_size=16)
            reached("export")
            path = export_onnx(program, folder / "plain.onnx").path
            made = export_ort(path, folder / "model.onnx").path
        except AwqcError as error:
            return {"stage": "refused", "error": error.text[:300]}
        told = describe_ort(made)
        graph = onnx.load(made, load_external_data=False).graph
    ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in graph.value_info}
    left = [  # of routers to experts they have a row for a token
        node.name
        for node in graph.node
        if node.op_type == "Softmax"
        and ranks.get(node.output[0], ROWS_AND_SCORES) > ROWS_AND_SCORES
    ]
    reasons = {why for name, why in told["apart"].items() if name in (*left, POSITIONS)}
    return {
        "stage": DONE,
        "attentions": sum(node.op_type == CACHED_ATTENTION for node in graph.node),
        "others": len(left),
        "recurrent": sum(node.op_type == LINEAR_ATTENTION for node in graph.node),
        "scans": sum(node.op_type == "Scan" for node in graph.node),
        "positions": told["positions"],
        "reasons": sorted(reasons),
    }


def _kinds() -> list[str]:
    from transformers.models.auto import modeling_auto

    return sorted(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _read() -> dict[str, dict[str, Any]]:
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {entry["kind"]: entry for entry in map(json.loads, lines)}


def _page(results: dict[str, dict[str, Any]]) -> str:
    done = {kind: one for kind, one in results.items() if one["stage"] == DONE}
    fused = {kind: one["attentions"] + one.get("recurrent", 0) for kind, one in done.items()}
    apart = {kind: one["others"] + one.get("scans", 0) for kind, one in done.items()}
    whole = [kind for kind in done if fused[kind] and not apart[kind]]
    states = [kind for kind, one in done.items() if one.get("recurrent") or one.get("scans")]
    told = [kind for kind, one in done.items() if kind not in whole and one["reasons"]]
    inside = [kind for kind in whole if done[kind]["positions"] == "places"]
    rest = Counter(one["stage"] for one in results.values() if one["stage"] != DONE)
    left = ", ".join(f"{count} {stage}" for stage, count in rest.most_common())
    rows = "\n".join(
        f"| {kind} | {one['attentions']} | {one.get('recurrent', 0)} | {apart[kind]} | "
        f"{one['positions']} | "
        f"{'; '.join(_short(reason) for reason in one['reasons'])} |"
        for kind, one in sorted(done.items())
    )
    return f"""# Attention of decoders in onnxruntime's own form

Written by `python -m benchmarks.zoo_fused`: small random models of the causal decoders that
transformers knows.

{len(results)} of {len(_kinds())} were run so far. Of {len(done)} that were captured with a cache,
{len(whole)} end wholly in `GroupQueryAttention`, or in `LinearAttention` where they carry a state
({len(states)} do), {len(told)} more with a reason for what does not; {len(inside)} count positions
as places. Not counted: {left or "none"}.

*one*: attentions that are one operation with their cache; *linear*: those that are one operation
with their state; *apart*: those of either kind that are not.

| model | one | linear | apart | positions | reasons |
|---|---|---|---|---|---|
{rows}
"""


def _short(reason: str) -> str:
    plain = reason.replace("|", "/")
    return plain if len(plain) <= SHOWN else f"{plain[:SHOWN]}…"


if __name__ == "__main__":
    main()

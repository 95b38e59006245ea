"""Decoders in onnxruntime's own form, with an operation for a whole layer and without it.

    python -m benchmarks.fused                 # writes benchmarks/results/fused.json
    python -m benchmarks.fused --only states

``experts``: 2 layers, width 1024, with 32 experts of 512 in each, of which a token is sent to 4.
``states``: 3 layers of linear attention (a gated delta rule with 16 heads of 128) and one of
attention, width 1024. Random weights, 4 bits, groups of 64. ``apart`` is the form without the
operation, ``fused`` the one that is published; as in `benchmarks.decode`, on one thread, the two in
turns.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from awqc.export.onnx import export_onnx
from awqc.export.ort import export_ort
from awqc.huggingface.capture import load_folder
from awqc.kv_cache import LOGITS_START
from awqc.report.content import environment
from awqc.runtimes.ort_model import OrtModel
from awqc.targets.base import EXPERTS, LINEAR_ATTENTION
from awqc.targets.known import ORT_CPU
from benchmarks.decode import nodes, numbers, turns
from benchmarks.width_models import quantize

RESULTS = Path(__file__).parent / "results" / "fused.json"
GROUP, TURNS = 64, 5
_SIZES: dict[str, Any] = {
    "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64,
    "vocab_size": 4096, "max_position_embeddings": 4096,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A random decoder, and the operation that makes the difference."""

    kind: str
    sizes: dict[str, Any]
    operation: str


CASES = {
    "experts": Case(
        "qwen3_moe",
        {
            **_SIZES, "moe_intermediate_size": 512, "num_experts": 32, "num_experts_per_tok": 4,
            "num_hidden_layers": 2, "norm_topk_prob": True,
        },
        EXPERTS,
    ),
    "states": Case(
        "qwen3_5_text",
        {
            **_SIZES, "intermediate_size": 3584, "num_hidden_layers": 4,
            "layer_types": [*["linear_attention"] * 3, "full_attention"],
            "linear_num_key_heads": 16, "linear_num_value_heads": 16,
            "linear_key_head_dim": 128, "linear_value_head_dim": 128,
        },
        LINEAR_ATTENTION,
    ),
}  # fmt: skip


def build(case: Case, folder: Path) -> dict[str, Path]:
    """The model in both forms."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(case.kind, **case.sizes))
    model.save_pretrained(folder / "source")
    program = quantize(load_folder(folder / "source"), bits=4, group_size=GROUP)
    plain = export_onnx(program, folder / "model.onnx").path
    apart = replace(ORT_CPU, fused=ORT_CPU.fused - {case.operation})
    found = {}
    for name, target in (("apart", apart), ("fused", ORT_CPU)):
        found[name] = folder / f"{name}.onnx"
        export_ort(plain, found[name], runs_on=target)
    return found


def measure(case: Case, count: int) -> dict[str, Any]:
    """The two forms, in ``count`` turns."""
    with tempfile.TemporaryDirectory() as scratch:
        files = build(case, Path(scratch))
        models = {
            name: (OrtModel(file, threads=1, fixed={LOGITS_START: -1}), True)
            for name, file in files.items()
        }
        made = [turns(models) for _ in range(count)]
        return {
            "kind": case.kind,
            "sizes": case.sizes,
            "models": {
                name: {
                    **numbers([each[name] for each in made]),
                    "nodes": sum(nodes(file).values()),
                    "megabytes": round(file.with_name(f"{file.name}.data").stat().st_size / 1e6, 1),
                }
                for name, file in files.items()
            },
            "environment": environment(),
        }


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--only", choices=CASES, help="one of them; the others stay as they are")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    results = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    for name in [given.only] if given.only else CASES:
        results[name] = measure(CASES[name], given.turns)
        print(json.dumps(results[name], indent=2), flush=True)
        given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

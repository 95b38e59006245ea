"""Experts in onnxruntime: all of a layer computing all rows, or one operation for the layer.

    python -m benchmarks.experts      # writes benchmarks/results/experts.json

A random decoder of 2 layers, width 1024, with 32 experts of 512 in each, of which a token is sent
to 4; 4 bits, groups of 64. ``apart`` is onnxruntime's form without the operation, ``fused`` the one
that is published; as in `benchmarks.decode`, on one thread, the two in turns.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from awqc.export.onnx import export_onnx
from awqc.export.ort import export_ort
from awqc.huggingface.capture import load_folder
from awqc.kv_cache import LOGITS_START
from awqc.report.content import environment
from awqc.runtimes.ort_model import OrtModel
from awqc.targets.base import EXPERTS
from awqc.targets.known import ORT_CPU
from benchmarks.decode import nodes, numbers, turns
from benchmarks.width_models import quantize

RESULTS = Path(__file__).parent / "results" / "experts.json"
SIZES: dict[str, Any] = {
    "hidden_size": 1024, "moe_intermediate_size": 512, "num_experts": 32, "num_experts_per_tok": 4,
    "num_hidden_layers": 2, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64,
    "vocab_size": 4096, "max_position_embeddings": 4096, "norm_topk_prob": True,
}  # fmt: skip
GROUP, TURNS = 64, 5


def build(folder: Path) -> dict[str, Path]:
    """The model in both forms."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **SIZES))
    model.save_pretrained(folder / "source")
    program = quantize(load_folder(folder / "source"), bits=4, group_size=GROUP)
    plain = export_onnx(program, folder / "model.onnx").path
    apart = replace(ORT_CPU, fused=ORT_CPU.fused - {EXPERTS})
    found = {}
    for name, target in (("apart", apart), ("fused", ORT_CPU)):
        found[name] = folder / f"{name}.onnx"
        export_ort(plain, found[name], runs_on=target)
    return found


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        files = build(Path(scratch))
        models = {
            name: (OrtModel(file, threads=1, fixed={LOGITS_START: -1}), True)
            for name, file in files.items()
        }
        made = [turns(models) for _ in range(given.turns)]
        result = {
            "sizes": SIZES,
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
    print(json.dumps(result, indent=2))
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

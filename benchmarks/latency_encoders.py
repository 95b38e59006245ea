"""Encoders at batch 1: the float ONNX against the compiled forms, and those of another checkout.

    python -m benchmarks.latency_encoders                    # writes results/latency_encoders.json
    python -m benchmarks.latency_encoders --write FOLDER     # only writes the compiled models, and
    python -m benchmarks.latency_encoders --before FOLDER    # measures them beside today's

MiniLM on a sentence of 32 tokens; a ViT of DeiT-S's sizes on an image; the encoder of Whisper base
on 30 seconds; the latter two with random weights. 4 bits, rounded to nearest. CPU time of one
thread, models in turns.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from awqc.bench.tuned_levels import tune_model
from awqc.capture.module import capture_module
from awqc.export.onnx import export_onnx
from awqc.export.ort import export_ort
from awqc.huggingface.capture import load_folder
from awqc.program import Program
from awqc.report.content import environment
from awqc.runtimes.product_speed import seconds_of_product
from benchmarks.models import minilm
from benchmarks.width_models import TYPES, cpu_seconds, quantize, runner, session

RESULTS = Path(__file__).parent / "results" / "latency_encoders.json"
TOKENS = 32
BEFORE, TUNED = "ort, before", "ort, tuned"


class States(nn.Module):
    """The last states of an encoder."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Of one input."""
        states: torch.Tensor = self.encoder(values).last_hidden_state
        return states


def vit() -> Program:
    """12 layers of width 384, an image of 224 x 224 in patches of 16."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    return capture_module(States(ViTModel(config).eval()), (torch.randn(2, 3, 224, 224),))


def whisper() -> Program:
    """6 layers of width 512, 1500 places."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048
    )
    return capture_module(States(WhisperEncoder(config).eval()), (torch.randn(2, 80, 3000),))


MODELS: Mapping[str, Callable[[], Program]] = {
    "minilm": lambda: load_folder(minilm(), task="feature-extraction"),
    "vit": vit,
    "whisper": whisper,
}


def write(program: Program, folder: Path, name: str) -> dict[str, Path]:
    """The float ONNX, both compiled forms, and the faster as `awqc tune` makes it, by name."""
    paths = {"float": export_onnx(program, folder / f"{name}.float.onnx").path}
    low_bit = quantize(program.clone(), bits=4, group_size="auto")
    paths["onnx"] = export_onnx(low_bit, folder / f"{name}.onnx").path
    paths["ort"] = export_ort(paths["onnx"], folder / f"{name}.ort.onnx").path
    paths[TUNED] = folder / f"{name}.tuned.onnx"
    shutil.copyfile(paths["ort"], paths[TUNED])
    print(tune_model(paths[TUNED], TOKENS, cache(seconds_of_product)), flush=True)
    return paths


def feeds(model: Any) -> dict[str, Any]:
    """One row for ``model``, as values of onnxruntime."""
    rng = np.random.default_rng(0)
    given = {}
    for spec in model.get_inputs():
        shape = [1, *(size if isinstance(size, int) else TOKENS for size in spec.shape[1:])]
        kind = TYPES[spec.type]
        value = np.ones(shape, kind) if kind is np.int64 else rng.standard_normal(shape)
        given[spec.name] = ort.OrtValue.ortvalue_from_numpy(value.astype(kind))
    return given


def operations(path: Path) -> dict[str, int]:
    """Of the model at ``path``, by type."""
    graph = onnx.load(path, load_external_data=False).graph
    return dict(Counter(node.op_type for node in graph.node).most_common())


def measure(paths: Mapping[str, Path], turns: int) -> dict[str, Any]:
    """CPU milliseconds of each, and nodes of the compiled forms."""
    models = {name: session(path) for name, path in paths.items()}
    runs = {name: runner(model, feeds(model)) for name, model in models.items()}
    seconds = cpu_seconds(runs, turns)
    result: dict[str, Any] = {
        "cpu_ms": {name: round(value * 1000, 2) for name, value in seconds.items()},
        "nodes": {name: operations(paths[name]) for name in paths if name != "float"},
    }
    if BEFORE in seconds:
        for name in ("ort", TUNED):
            result[f"{name} of before"] = round(seconds[name] / seconds[BEFORE], 3)
    return result


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--write", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.write or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in given.models:
            paths = write(MODELS[name](), folder, name)
            if given.before is not None:
                paths[BEFORE] = given.before / f"{name}.ort.onnx"
            if given.write is None:
                found[name] = measure(paths, given.turns)
                print(name, json.dumps(found[name]), flush=True)
    if given.write is None:
        result = {"models": found, "environment": environment()}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

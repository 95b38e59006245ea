"""Decoders of any width with random weights, and ways to time them.

Speed depends on sizes, not on training. Times are CPU seconds of one thread, with the models
in turns: other work on the machine then matters little.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from awqc.huggingface.capture import load_folder
from awqc.passes.pipeline import parse_pipeline
from awqc.program import Program

NEAREST = "canonicalize,quantize-weights"
VOCABULARY = 8192
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


def decoder(layers: int, hidden: int, *, vocabulary: int = VOCABULARY) -> Program:
    """A Llama-like decoder with a cache: heads of 64, 4 to a key/value head, MLP of 2.75 widths."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 256,
        vocab_size=vocabulary,
        tie_word_embeddings=False,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        del model
        return load_folder(Path(folder))


def quantize(program: Program, **options: Any) -> Program:
    """``program`` rounded to nearest, which costs what scaled weights cost."""
    parse_pipeline(NEAREST, quantize_weights=options).run(program)
    return program


def session(path: Path, *, profile: Path | None = None, optimized: Path | None = None) -> Any:
    """On the CPU, with one thread."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(model: Any, tokens: int, past: int = 0) -> dict[str, Any]:
    """Inputs of one row of ``tokens`` after ``past`` others, as values of onnxruntime."""
    rng = np.random.default_rng(0)
    made = {
        "input_ids": rng.integers(1, 1000, (1, tokens)),
        "attention_mask": np.ones((1, past + tokens)),
        "position_ids": np.arange(past, past + tokens)[None],
        "token_type_ids": np.zeros((1, tokens)),
    }
    given = {}
    for spec in model.get_inputs():
        value = made.get(spec.name)
        if value is None:
            value = rng.standard_normal((1, spec.shape[1], past, spec.shape[3]))
        given[spec.name] = ort.OrtValue.ortvalue_from_numpy(value.astype(TYPES[spec.type]))
    return given


def runner(model: Any, given: Mapping[str, Any]) -> Callable[[], object]:
    """A run of ``model`` that copies no output."""
    names = [value.name for value in model.get_outputs()]
    return lambda: model.run_with_ort_values(names, given)


def cpu_seconds(runs: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Median CPU seconds of each of ``runs``, which take turns of four; the first is warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            run()
            for _ in range(3):
                started = time.process_time()
                run()
                seconds[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}

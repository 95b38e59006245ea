"""awqc's own rows of the accuracy table, each in a process of its own.

Takes what the scripts in ``accuracy_peers`` take, with ``--text`` in place of ``--weights``: the
captured program itself is measured, after the clock was read.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from awqc.export.whole_numbers import int_grid
from awqc.huggingface.capture import load_folder
from awqc.huggingface.tokens import token_batch
from awqc.options import parse_options
from awqc.options.chosen_passes import build_pipeline
from awqc.options.effort import EFFORTS
from awqc.program import Program
from benchmarks.accuracy_measure import Run, Tokens, measure

NEAREST = "nearest"
MIXED = "avg-bits-5"
SEQUENTIAL = "default-sequential"
METHODS = (NEAREST, *EFFORTS, MIXED, SEQUENTIAL)
"""The rows: rounding to nearest, each effort, widths of their own with 5 bits on average, and the
default with each weight rounded on what the quantized part before it gives."""
FREE = "avg-bits-"
FORMATS = tuple(f"{FREE}{bits}" for bits in ("4.53", "4.77"))
"""Rows in which each weight has bits and groups of its own, with so many bits on average."""

BATCH = {True: 1, False: 16}
"""Sequences a calibration batch: of a language model's packed text, and of lines."""


def quantize(
    program: Program, tokens: Tokens, method: str, seed: int, options: dict[str, Any]
) -> None:
    """Quantize ``program`` as ``method`` does, calibrated on ``tokens``."""
    batches = [
        token_batch(program, ids, mask) for ids, mask in tokens.batches(BATCH[bool(program.states)])
    ]
    whole = {**options, "head_bits": 0, "embed_bits": 0, "seed": seed}
    if method == NEAREST:
        chosen = parse_options(**whole, pipeline="canonicalize,quantize-weights", effort="fast")
    elif method == MIXED:
        chosen = parse_options(**whole, avg_bits=5.0)
    elif method in FORMATS:
        program.scale_dtype = torch.float16  # what bits a weight are counted with
        whole |= {"bits": 4, "group_size": "auto"}
        chosen = parse_options(**whole, avg_bits=float(method.removeprefix(FREE)))
    elif method == SEQUENTIAL:
        chosen = parse_options(**whole, sequential=True)
    else:
        chosen = parse_options(**whole, effort=method)
    build_pipeline(chosen).run(program, batches)


def runtime_scales(program: Program) -> int:
    """Numbers that multiply activations at run time."""
    return sum(
        program.findings.scales[site.name].scale.numel()
        for site in program.findings.sites
        if site.status == "runtime"
    )


def effective_bits(program: Program) -> float:
    """Bits a quantized weight, with scales in 16 bits, zero points, and run-time scales."""
    total, count = 16.0 * runtime_scales(program), 0
    for weight in program.findings.quantized.values():
        form = int_grid(weight.format)
        zero_point = 0 if form.symmetric else form.bits
        count += weight.codes.numel()
        scales = weight.tensors["scale"].numel() * (16 + zero_point)
        total += weight.codes.numel() * form.bits + scales
    return total / count


def run_of(program: Program) -> Run:
    """How the program is run, on token ids and mask."""

    def run(ids: Tensor, mask: Tensor) -> Tensor:
        return program.run(token_batch(program, ids, mask))[0]

    return run


def main() -> None:
    """Quantize, measure, and write the answer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--model", "--tokens", "--text", "--answer"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True, help="see accuracy_measure")
    parser.add_argument("--method", choices=(*METHODS, *FORMATS), required=True)
    for name in ("--bits", "--group-size", "--seed"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--encoder", action="store_true")
    given = parser.parse_args()
    program = load_folder(given.model, task="feature-extraction" if given.encoder else None)
    tokens = Tokens.load(given.tokens)
    options = {"bits": given.bits, "group_size": given.group_size}
    started = time.process_time()
    quantize(program, tokens, given.method, given.seed, options)
    seconds = time.process_time() - started
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = {
        "effective_bits": effective_bits(program),
        "runtime_scales": runtime_scales(program),
        "cpu_s": seconds,
        "peak_rss_mib": rss / 1024,
        "samples": 0 if given.method == NEAREST else len(tokens.ids),
        "notes": [],
        **measure(
            run_of(program), Tokens.load(given.text), given.reference, causal=not given.encoder
        ),
    }
    given.answer.write_text(json.dumps(answer))


if __name__ == "__main__":
    main()

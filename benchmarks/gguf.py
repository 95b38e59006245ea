"""GGUF files of awqc and of llama.cpp's own quantizer, in the same types, judged by llama.cpp.

    python -m benchmarks.gguf MODEL --tools BIN --float FILE --calib TEXT --text TEXT --work DIR

MODEL is a Hugging Face folder, FILE the same model in float as ``convert_hf_to_gguf.py`` writes it,
BIN holds ``llama-imatrix``, ``llama-quantize`` and ``llama-perplexity``. For each mix of types
llama.cpp quantizes with an importance matrix of the calibration text; awqc compiles after that very
file, so that each tensor has the same type, from as many tokens of the same text. Both are compared
with the float model on the other text by ``llama-perplexity --kl-divergence``. What DIR holds
already is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "gguf.json"
MIXES = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q3_K_M")
TOKENS = 512
MEASURES = {
    "perplexity": r"Mean PPL\(Q\)\s*:\s*([0-9.]+)",
    "float_perplexity": r"Mean PPL\(base\)\s*:\s*([0-9.]+)",
    "kl": r"Mean\s+KLD:\s*([0-9.]+)",
    "kl_error": r"Mean\s+KLD:\s*[0-9.]+ ±\s*([0-9.]+)",
    "same_top_percent": r"Same top p:\s*([0-9.]+)",
}
"""What ``llama-perplexity`` prints."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    for name in ("tools", "float", "calib", "text", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--mixes", nargs="*", default=MIXES)
    parser.add_argument("--efforts", nargs="*", default=["default"])
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--measured", type=int, default=16)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(chosen)
    bench.tool("imatrix", bench.imatrix, "-m", chosen.float, "-f", chosen.calib,
               "--chunks", chosen.sequences, "-c", TOKENS, "-o", bench.imatrix)  # fmt: skip
    for mix in chosen.mixes:
        theirs = chosen.work / f"{mix}.gguf"
        bench.tool("quantize", theirs, "--imatrix", bench.imatrix, chosen.float, theirs, mix)
        bench.record(mix, "llama.cpp", theirs)
        for effort in chosen.efforts:
            ours = chosen.work / f"awqc-{effort}-{mix}" / "model.gguf"
            bench.run(ours, sys.executable, "-m", "awqc", "compile", chosen.model, "--formats",
                      "gguf", "--gguf", theirs, "--calib", chosen.calib, "--num-samples",
                      chosen.sequences, "--seq-len", TOKENS, "--effort", effort,
                      "-o", ours.parent)  # fmt: skip
            bench.record(mix, f"awqc {effort}", ours)


class Bench:
    """Files of a run, and how each is made."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self._chosen = chosen
        self.imatrix = chosen.work / "imatrix.gguf"
        self._seconds_file = chosen.work / "seconds.json"
        self._seconds: dict[str, float] = {}
        if self._seconds_file.is_file():
            self._seconds |= json.loads(self._seconds_file.read_text())

    def tool(self, name: str, made: Path, *args: Any) -> str:
        """Let a program of llama.cpp make a file; returns what it prints."""
        program = self._chosen.tools / f"llama-{name}"
        threads = ("1",) if name == "quantize" else ("-t", "1")
        return self.run(made, program, *args, *threads)

    def run(self, made: Path, *command: Any) -> str:
        """Make a file, unless it is there; what is printed is kept beside it."""
        log = self._chosen.work / f"{made.parent.name}-{made.name}.log"
        if made.exists():
            return log.read_text() if log.is_file() else ""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        home = {"LD_LIBRARY_PATH": str(self._chosen.tools), "OMP_NUM_THREADS": "1"}
        words = list(map(str, command))
        ended = subprocess.run(words, capture_output=True, text=True, env=os.environ | home)
        printed: str = ended.stdout + ended.stderr
        log.write_text(printed)
        if ended.returncode:
            raise SystemExit(f"{' '.join(words)} failed: {printed[-2000:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self._seconds[str(made.relative_to(self._chosen.work))] = round(spent, 1)
        self._seconds_file.write_text(json.dumps(self._seconds, indent=1))
        return printed

    def record(self, mix: str, row: str, file: Path) -> None:
        """Measure ``file`` and write what came of it."""
        base = self._chosen.work / "logits.kld"
        self.tool("perplexity", base, "-m", self._chosen.float, "-f", self._chosen.text,
                  "--kl-divergence-base", base, "-c", TOKENS,
                  "--chunks", self._chosen.measured)  # fmt: skip
        said = file.with_suffix(".kl")
        if not said.is_file():
            printed = self.tool("perplexity", said, "-m", file, "--kl-divergence-base", base,
                                "--kl-divergence", "-c", TOKENS)  # fmt: skip
            said.write_text(printed)
        found: dict[str, Any] = {
            name: read(said.read_text(), how) for name, how in MEASURES.items()
        }
        found |= {
            "megabytes": round(file.stat().st_size / 1e6, 1),
            "types": counts(file),
            "cpu_s": self._seconds.get(str(file.relative_to(self._chosen.work))),
        }
        results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        model = results.setdefault(self._chosen.model.name, {})
        model |= {"calibration": [self._chosen.sequences, TOKENS],
                  "measured": [self._chosen.measured, TOKENS]}  # fmt: skip
        model.setdefault("mixes", {}).setdefault(mix, {})[row] = found
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(mix, row, json.dumps(found), flush=True)


def read(printed: str, pattern: str) -> float:
    """The number that ``pattern`` finds."""
    found = re.search(pattern, printed)
    assert found is not None, f"llama-perplexity did not print {pattern}"
    return float(found[1])


def counts(file: Path) -> dict[str, int]:
    """How many tensors have each type."""
    from gguf import GGUFReader

    kinds: Sequence[str] = [tensor.tensor_type.name for tensor in GGUFReader(file).tensors]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


if __name__ == "__main__":
    main()

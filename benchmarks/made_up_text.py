"""SmolLM2-135M: what calibrating on text that the model makes up itself costs.

    python -m benchmarks.made_up_text --calib TEXT --text TEXT   # results/made_up_text.json

The same passes run on as many tokens of real text, of text that the model sampled from itself,
and, rounding to nearest, on none; perplexity on held-out text. 4 bits, groups of 64.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from awqc.data.text_batches import TextModel, packed_sequences, text_calibration
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.options.effort import EFFORTS
from awqc.passes.pipeline import make_pipeline, parse_pipeline
from awqc.report.content import environment
from benchmarks.decoder import NEAREST, SEQ_LEN, perplexity
from benchmarks.models import smollm2

RESULTS = Path(__file__).parent / "results" / "made_up_text.json"
SPEC = {"bits": 4, "group_size": 64}
SAMPLES, LENGTH = 32, 256


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calib", type=Path, required=True, help="real text to calibrate on")
    parser.add_argument("--text", type=Path, required=True, help="text to measure on")
    parser.add_argument("--eval-samples", type=int, default=16)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    folder = HFFolder.at(smollm2())
    program = load_folder(smollm2())
    text = packed_sequences(
        TextModel.of(program, folder), arguments.text, arguments.eval_samples, SEQ_LEN
    )
    found = {"float": perplexity(program, text)}
    parse_pipeline(NEAREST, quantize_weights=SPEC).run(program)
    found["nearest"] = perplexity(program, text)
    for effort in ("fast", "default"):
        for name, source in {"real": arguments.calib, "made up": None}.items():
            program = load_folder(smollm2())
            batches = text_calibration(
                program, folder, source, num_samples=SAMPLES, seq_len=LENGTH
            ).batches
            options = EFFORTS[effort].options()
            options["quantize_weights"] = {**options["quantize_weights"], **SPEC}
            make_pipeline(EFFORTS[effort].passes, options).run(program, batches)
            found[f"{effort}, {name}"] = perplexity(program, text)
            print(found, flush=True)
    gap = found["nearest"] - found["float"]
    result = {
        "tokens": SAMPLES * LENGTH,
        "perplexity": found,
        "gap_left": {name: (value - found["float"]) / gap for name, value in found.items()},
        "environment": environment(),
    }
    print(json.dumps(result, indent=2))
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

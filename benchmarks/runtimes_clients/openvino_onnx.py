"""Runs an ONNX model by OpenVINO: python openvino_onnx.py JOB RESULT."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import openvino as ov
from codec import decode, encode


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    # By default it takes bfloat16 where the CPU has it, and rounds activations to 8 bits.
    precise = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    model = ov.Core().compile_model(job["model"], "CPU", precise)
    names = [output.get_any_name() for output in model.outputs]
    runs = []
    for inputs in job["runs"]:
        found = model({name: decode(value) for name, value in inputs.items()})
        values = [np.asarray(found[index]) for index in range(len(names))]
        runs.append({name: encode(value) for name, value in zip(names, values, strict=True)})
    Path(sys.argv[2]).write_text(json.dumps({"runs": runs}))


main()

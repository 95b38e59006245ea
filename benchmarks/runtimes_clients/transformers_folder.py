"""Runs a checkpoint by transformers: python transformers_folder.py JOB RESULT."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers
from codec import decode, encode


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    model = transformers.AutoModelForCausalLM.from_pretrained(
        job["model"], quantization_config=transformers.CompressedTensorsConfig(dequantize=True)
    )
    runs = []
    for inputs in job["runs"]:
        ids, mask = (torch.from_numpy(decode(inputs[k])) for k in ("input_ids", "attention_mask"))
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits
        runs.append({"logits": encode(logits.float().numpy())})
    Path(sys.argv[2]).write_text(json.dumps({"runs": runs}))


main()

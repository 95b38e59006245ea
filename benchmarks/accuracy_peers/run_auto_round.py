"""auto-round: its AWQ, without and with clip, and its own algorithm, which learns the rounding.

The default of 200 steps of 8 sequences a block would take hours on a CPU: see STEPS and BATCH.
"""

from __future__ import annotations

import torch
from auto_round import AutoRound
from auto_round.algorithms.transforms.awq.config import AWQConfig
from common import Answer, Request, run
from torch import nn
from transformers import AutoTokenizer

SEQUENCES = {"awq": 16, "awq-clip": 16, "signround": 64}
STEPS, BATCH = 50, 2


def quantize(request: Request, model: nn.Module) -> Answer:
    few = request.first(SEQUENCES[request.method])
    rows = few.ids.split(1)
    data = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in rows]
    integers = {"bits": request.bits, "group_size": request.group_size, "data_type": "int"}
    options = {"iters": STEPS} if request.method == "signround" else {}
    compressor = AutoRound(
        model,
        tokenizer=AutoTokenizer.from_pretrained(request.folder),
        scheme={**integers, "sym": False},
        alg_configs=AWQConfig(apply_clip=True) if request.method == "awq-clip" else request.method,
        dataset=data,
        nsamples=len(data),
        seqlen=few.ids.shape[1],
        batch_size=BATCH,
        device_map="cpu",
        enable_torch_compile=False,
        seed=request.seed,
        **options,
    )
    quantized, _ = compressor.quantize()
    state = quantized.state_dict()
    names = [name for name in state if name in model.state_dict()]
    weights = {name: state[name] for name in names if not name.startswith("lm_head")}
    notes = (f"{STEPS} steps of {BATCH} sequences",) if options else ()
    return Answer(weights, zero_point_bits=request.bits, samples=len(few.ids), notes=notes)


run(quantize)

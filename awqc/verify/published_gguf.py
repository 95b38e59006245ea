"""A published GGUF file, read and run by others than awqc, against the program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from awqc.artifacts.scratch import scratch_folder
from awqc.huggingface.gguf_template import FLOATS, open_template
from awqc.kv_cache import PAST
from awqc.machine.room import available
from awqc.program import Batch, Program
from awqc.verify.fresh_job import ask, fresh_job
from awqc.verify.gaps import Gaps
from awqc.verify.limits import EXACT_TOLERANCE, check_near
from awqc.verify.published_weights import check_weight

TOKENS = ("input_ids", "attention_mask")
BYTES = 10
"""Memory for each weight of a model that is opened in float32 out of a file."""


def check_gguf(program: Program, batches: Sequence[Batch], file: Path) -> None:
    """Refuse a GGUF file that holds other weights, or that transformers runs otherwise.

    The package ``gguf`` reads each quantized weight. Transformers, where it knows the architecture
    and there is memory for the model in float32, puts tensors back by tables of its own, so that
    names, the order of rows and folded scales are looked at by others than who wrote them.

    Raises:
        VerificationError: names what differs.
    """
    _check_weights(program, file)
    if sum(value.numel() for value in program.parameters().values()) * BYTES > available():
        program.tell(f"{file.name} was not run as a whole: in float32 it does not fit in memory")
        return
    batches = [batch for batch in batches if _has_no_past(program, batch)]
    logits = _run(program, batches, file) if batches else None
    if logits is None:
        program.tell(
            f"{file.name} was read back weight by weight, and not run as a whole: transformers "
            "does not open this architecture in GGUF"
        )
        return
    kinds = {tensor.type for tensor in open_template(file).tensors if tensor.is_float}
    dtype = max((FLOATS[kind] for kind in kinds), key=lambda each: EXACT_TOLERANCE[each])
    output = program.head_outputs[0]
    gaps = Gaps()
    for batch, found in zip(batches, logits, strict=True):
        wanted = dict(zip(program.outputs, program.run(batch), strict=True))[output]
        mask = batch.get(program.task.mask_input or "")
        gaps.add(output, found[:, -wanted.shape[1] :], wanted, mask)
    check_near(gaps.distance()["outputs"], dtype, program.name, f"{file.name} in transformers")


def _has_no_past(program: Program, batch: Batch) -> bool:
    return all(0 in batch[name].shape for name, _ in program.states if name.startswith(PAST))


def _check_weights(program: Program, file: Path) -> None:
    target = program.findings.gguf
    assert target is not None
    with scratch_folder() as scratch:
        job = fresh_job("gguf", file, scratch, "npz")
        ask(job, program.name, file.name)
        with np.load(job["outputs"]) as made:
            for name in sorted({key.rpartition(".")[0] for key in made.files}):
                place = target.places[name]
                check_weight(
                    program,
                    f"{file.name} holds another weight for {name}",
                    program.findings.quantized[place.source].to(torch.float32),
                    (made[f"{name}.left"], made[f"{name}.right"]),
                    place.rows,
                )


def _run(program: Program, batches: Sequence[Batch], file: Path) -> list[Tensor] | None:
    """The logits that transformers makes; None where it has no table for the architecture."""
    with scratch_folder() as scratch:
        job = fresh_job("gguf-model", file, scratch, "pt")
        given = [{key: batch[key] for key in TOKENS if key in batch} for batch in batches]
        torch.save(given, job["inputs"])
        ask(job, program.name, file.name)
        if not Path(job["outputs"]).is_file():
            return None
        made: list[Tensor] = torch.load(job["outputs"], weights_only=True)
        return made

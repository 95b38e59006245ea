"""What tells whether two compiles are one: whether work of the first can serve the second."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from awqc.artifacts.work_folder import DIGEST
from awqc.executor.run import Run
from awqc.executor.segments import Segment
from awqc.findings import Decisions
from awqc.machine.narrow import Narrow
from awqc.passes.base import Pass
from awqc.passes.spelling import spell
from awqc.program import Batch, Program
from awqc.weights.decisions import decide


def identify(
    program: Program,
    steps: Sequence[Pass],
    run: Run,
    watched: Batch | None,
    segments: Sequence[Segment],
) -> dict[str, str]:
    """All that what becomes of the segments of ``program`` depends on, each under its name.

    Every tensor of the program is read once.

    Args:
        program: with observers, before anything is learned.
        steps: all passes up to codes.
        run: the data of the calibration.
        watched: a batch on which layers are compared.
        segments: of the program.
    """
    tensors = program.parameters()
    held = list(tensors.values())
    digests = run.each(_tensor_digest, held, "look at weights", on_device=False)
    ends = [segment.nodes[-1].name for segment in segments]
    return {
        "awqc": version("awqc"),
        "torch": torch.__version__,
        **_passes(steps),
        "operations": _digest([program.graph, program.interface.inputs, program.outputs]),
        "choice of weights": _digest([*_choice(decide(program)), program.scale_dtype]),
        "calibration data": _digest(map(_batch_digest, run.batches)),
        "example": _batch_digest(program.check_batch()),
        "held-out data": _batch_digest(watched or {}),
        "segments": str(len(segments)),
        "places of segments": _digest(ends),
        **{f"tensor {name}": each for name, each in zip(tensors, digests, strict=True)},
    }


def _passes(steps: Sequence[Pass]) -> dict[str, str]:
    """Each by its name."""
    found: dict[str, str] = {}
    for step in steps:
        key = f"pass {step.name}"
        found[key] = f"{found[key]},{spell(step)}" if key in found else spell(step)
    return found


def _choice(decisions: Decisions) -> list[object]:
    """All of ``decisions``, in an order that is the same in every process."""
    return [
        dict(decisions.formats), sorted(decisions.tables), dict(decisions.refused),
        dict(decisions.fallbacks),
    ]  # fmt: skip


def _digest(items: Any) -> str:
    digest = hashlib.sha256("\n".join(map(str, items)).encode())
    return f"{DIGEST}{digest.hexdigest()}"


def _batch_digest(batch: Mapping[str, Tensor]) -> str:
    return _digest([(name, _tensor_digest(tensor)) for name, tensor in sorted(batch.items())])


def _tensor_digest(tensor: Tensor) -> str:
    """Of the type, the shape and the elements, as they are kept."""
    kept = tensor.stored() if isinstance(tensor, Narrow) else tensor
    kept = kept.detach().cpu().contiguous()
    digest = hashlib.blake2b(f"{kept.dtype}{tuple(kept.shape)}".encode(), digest_size=16)
    if kept.numel():
        digest.update(kept.reshape(-1).view(torch.uint8).numpy().data)
    return f"{DIGEST}{digest.hexdigest()}"

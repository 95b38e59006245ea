"""report.json: what was done and what it cost, for programs and people."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from awqc.artifacts.recipe import describe_recipe
from awqc.errors import worded
from awqc.findings import Allocation
from awqc.graph.sites import Site, SiteScale
from awqc.program import Program
from awqc.report.html import write_html
from awqc.verify.layers import Layer
from awqc.verify.verification import Verification

SCHEMA = 3


def build_report(
    program: Program,
    layers: Sequence[Layer],
    verification: Verification | None,
    original_bytes: int,
    timing: Mapping[str, float],
    pipeline: str,
    calibration: Mapping[str, Any],
) -> dict[str, Any]:
    """All that a compile found, as plain values; infinities and NaN become None."""
    quantized_bytes = stored_bytes(program)
    found = program.findings
    report = {
        "schema": SCHEMA,
        "model": program.name,
        "inputs": [str(spec) for spec in program.inputs],
        "outputs": list(program.outputs),
        "notes": [worded(note) for note in program.notes],
        "calibration": dict(calibration),
        "sites": [describe_site(site, found.scales.get(site.name)) for site in found.sites],
        **_allocation(found.allocation),
        "rounding": _rounding(program),
        "tuning": asdict(found.tuning) if found.tuning else None,
        "layers": [asdict(layer) for layer in layers],
        "skipped": [{"name": name, "reason": reason} for name, reason in found.skipped.items()],
        "size": {
            "original_bytes": original_bytes,
            "quantized_bytes": quantized_bytes,
            "ratio": original_bytes / quantized_bytes if quantized_bytes else 1.0,
        },
        "verify": verification.as_dict() if verification else None,
        "timing_s": {name: round(seconds, 3) for name, seconds in timing.items()},
        "recipe": describe_recipe(program, pipeline),
        "environment": environment(),
    }
    return dict(_plain(report))


def _allocation(allocation: Allocation | None) -> dict[str, Any]:
    """Under its key, where widths were chosen."""
    if allocation is None or not allocation.widths:
        return {}
    held = {key: value for key, value in vars(allocation).items() if key != "formats"}
    return {"allocation": {"bits": dict(held.pop("widths")), **held}}


def describe_site(site: Site, scale: SiteScale | None) -> dict[str, Any]:
    """A site as in ``sites``; losses are None where calibration did not reach it."""
    return {
        "name": site.name,
        "value": site.value,
        "linears": list(dict.fromkeys(reader.weight for reader in site.readers)),
        "carriers": sorted(set(site.edits) - {reader.weight for reader in site.readers}),
        "status": site.status,
        "reason": site.reason,
        "channels": site.channels,
        "largest_tie": _largest_tie(site),
        "scales": site.channels if site.status == "runtime" else site.scales,
        "candidate": scale.candidate if scale else None,
        "loss_nearest": scale.loss_nearest if scale else None,
        "loss": scale.loss if scale else None,
    }


def _rounding(program: Program) -> dict[str, Any]:
    """How codes were found."""
    spec = program.quantization
    return {"method": spec.rounding, "clip": spec.clip, "sweeps": spec.sweeps}


def _largest_tie(site: Site) -> int:
    """How many channels of one product share one scale, at most; 1 where none is tied."""
    scaled = [reader.classes[reader.classes >= 0] for reader in site.readers]
    return max((int(classes.bincount().max()) for classes in scaled if len(classes)), default=1)


def stored_bytes(program: Program) -> int:
    """Bytes of all tensors that the graph reads, each storage once."""
    sizes = {
        value.untyped_storage().data_ptr(): value.numel() * value.element_size()
        for value in program.parameters().values()
    }
    return sum(sizes.values())


def environment() -> dict[str, Any]:
    """Versions and the machine's kind; nothing that names a person or a place."""
    packages = {name: _version(name) for name in ("torch", "onnx", "awqc")}
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        **packages,
        "onnxruntime": onnxruntime.__version__,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ModuleNotFoundError:
        return None


def _plain(value: Any) -> Any:
    """``value`` with numbers that JSON lacks replaced by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write ``report.json`` and ``report.html`` into ``folder``."""
    (folder / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    write_html(report, folder)

"""Write a `Program` as a ``.pt2`` archive that torch alone loads and runs."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import torch

from awqc.calling import dynamic_shapes, example_call, restore_calls
from awqc.errors import ExportError
from awqc.graph.trace_module import trace_module
from awqc.machine.process import quiet_libraries
from awqc.program import Program


@dataclass(frozen=True)
class ExportedPt2:
    """What `export_pt2` wrote: ``path``, and the names of its ``quantized`` weights."""

    path: Path
    quantized: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Size on disk."""
        return self.path.stat().st_size


def export_pt2(program: Program, path: Path) -> ExportedPt2:
    """Write ``program`` to ``path``, called as the caller's module was.

    Dequantizing is traced into plain aten operations on the packed codes: the archive
    needs no awqc, and holds no float copy of a quantized weight. Dynamic axes stay so.

    Raises:
        ExportError: torch cannot export the graph.
        OSError: ``path`` cannot be written.
    """
    args, kwargs = example_call(program)
    # In memory first: torch's own writer ends the whole process where the disk is full.
    archive = io.BytesIO()
    module, shapes = restore_calls(program), dynamic_shapes(program)
    try:
        with torch.no_grad(), quiet_libraries():
            exported = trace_module(module, args, kwargs, shapes)
            for node in exported.graph.nodes:
                # The rest is for debugging: it is large, and holds paths of this machine.
                node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
            torch.export.save(exported, archive)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise ExportError(
            f"{program.name}: torch.export could not write the quantized graph: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error
    path.write_bytes(archive.getbuffer())
    return ExportedPt2(path, tuple(program.findings.quantized))

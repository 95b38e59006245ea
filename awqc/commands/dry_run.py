"""What a compile would do: sites, and how each weight would be stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from awqc.artifacts.target import prepare_folder
from awqc.data.load import DataSource
from awqc.errors import worded
from awqc.executor.segments import cut, weights_read
from awqc.numerics.request import QuantizationSpec
from awqc.options.chosen_passes import request_of
from awqc.options.compile_options import on_command_line, parse_options
from awqc.passes.planning import with_sites
from awqc.program import Program
from awqc.report.content import describe_site
from awqc.report.printed import print_sites
from awqc.stages.asked import open_as_asked, prepare, used_files


def make_plan(program: Program, spec: QuantizationSpec) -> dict[str, Any]:
    """Sites, weights to be quantized, weights left alone, and weights a segment reads.

    ``program`` is edited.
    """
    decisions = with_sites(program, spec)
    skipped = decisions.refused
    layers = [
        {
            "name": name,
            "shape": list(program.weight(name).shape),
            **form.describe(),
        }
        for name, form in decisions.formats.items()
    ]
    return {
        "model": program.name,
        "inputs": [str(spec) for spec in program.inputs],
        "notes": [worded(note, on_command_line) for note in program.notes],
        "sites": [describe_site(site, None) for site in program.findings.sites],
        "layers": layers,
        "skipped": [{"name": name, "reason": reason} for name, reason in skipped.items()],
        "segments": [weights_read(segment.nodes) for segment in cut(program)],
    }


def print_plan(
    model: str,
    target: Path | None,
    as_json: bool,
    calib: Path | None,
    options: Mapping[str, Any],
) -> None:
    """Print what ``awqc compile MODEL`` would do: as JSON, or for people.

    Of ``calib``, arrays may say what the inputs are.
    """
    from awqc.machine.terminal import console, echo, labelled

    chosen = parse_options(**options)
    if target is not None:
        pipeline, _ = prepare(chosen)
        prepare_folder(target, used_files(model, calib, pipeline, chosen))
    program = open_as_asked(model, None, DataSource.of(calib), chosen)
    spec = QuantizationSpec(**request_of(chosen))
    plan = make_plan(program, spec)
    if as_json:
        echo(json.dumps(plan, indent=2))
        return
    out = console()
    out.print(f"{program.name}: {', '.join(plan['inputs'])}")
    for note in plan["notes"]:
        out.print(labelled("warning", "yellow", note))
    print_sites(plan["sites"], out)
    for entry in plan["skipped"]:
        out.print(f"left in float: {entry['name']}: {entry['reason']}")
    folds = sum(site["status"] == "foldable" for site in plan["sites"])
    out.print(
        f"{folds} of {len(plan['sites'])} sites fold; {len(plan['layers'])} weights would be "
        f"quantized, {len(plan['skipped'])} left in float"
    )
    segments = plan["segments"]
    out.print(
        f"{len(segments)} segment{'s' if len(segments) > 1 else ''}, one in memory at a time; the "
        f"largest reads {max(segments) / 1e6:.1f} million weights"
    )
    if target is not None:
        out.print(f"would write {target}")

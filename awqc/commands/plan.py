"""What a compile would do: sites, and how each weight would be stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from awqc.channels.analysis import find_sites
from awqc.numerics.request import QuantizationSpec
from awqc.passes.canonicalize import Canonicalize
from awqc.program import Program
from awqc.report.content import describe_site
from awqc.weights.decisions import decide


def make_plan(program: Program, spec: QuantizationSpec) -> dict[str, Any]:
    """Sites, weights to be quantized, and weights left alone; ``program`` is canonicalized."""
    Canonicalize().apply(program)
    program.tidy()
    decisions = decide(program, spec)
    skipped = decisions.refused
    layers = [
        {
            "name": name,
            "shape": list(program.weight(name).shape),
            **form.describe(),
        }
        for name, form in decisions.formats.items()
    ]
    sites = find_sites(program, exclude=skipped.__contains__)
    return {
        "model": program.name,
        "inputs": [str(spec) for spec in program.inputs],
        "notes": list(program.notes),
        "sites": [describe_site(site, None) for site in sites],
        "layers": layers,
        "skipped": [{"name": name, "reason": reason} for name, reason in skipped.items()],
    }


def print_plan(
    program: Program, target: Path | None, as_json: bool, spec: QuantizationSpec
) -> None:
    """Print the plan for ``program``: as JSON, or for people."""
    from rich.markup import escape

    from awqc.report.terminal import console, print_sites

    plan = make_plan(program, spec)
    if as_json:
        click.echo(json.dumps(plan, indent=2))
        return
    out = console()
    out.print(f"{program.name}: {', '.join(plan['inputs'])}", markup=False)
    for note in plan["notes"]:
        out.print(f"[yellow]warning:[/] {escape(note)}")
    print_sites(plan["sites"], out)
    for entry in plan["skipped"]:
        out.print(f"left in float: {entry['name']}: {entry['reason']}", markup=False)
    folds = sum(site["status"] == "foldable" for site in plan["sites"])
    out.print(
        f"{folds} of {len(plan['sites'])} sites fold; {len(plan['layers'])} weights would be "
        f"quantized, {len(plan['skipped'])} left in float"
    )
    if target is not None:
        out.print(f"would write {target}", markup=False)

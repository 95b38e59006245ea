"""Inputs of a program under other names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from awqc.program import Program


def rename_inputs(program: Program, names: Sequence[str]) -> Program:
    """Give the inputs of ``program``, in order, these ``names``."""
    old = [spec.name for spec in program.inputs]
    inputs = tuple(
        replace(spec, name=name) for spec, name in zip(program.inputs, names, strict=True)
    )
    example = {name: program.example[former] for former, name in zip(old, names, strict=True)}
    program.interface = replace(program.interface, inputs=inputs, example=example)
    return program

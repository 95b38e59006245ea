"""Names of weights that Python source can hold: ``torch.fx`` writes them into a graph's code.

A module of a model may be called ``class`` or ``two words`` (``nn.ModuleDict({"class": …})``); as
an attribute in source it cannot.
"""

from __future__ import annotations

import re
from copy import copy
from dataclasses import replace

from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature
from torch.fx import Graph

from awqc.capture.identifiers import why_no_name


def with_attribute_names(exported: ExportedProgram) -> ExportedProgram:
    """``exported``, or a copy of it in which each weight has a name that can be written."""
    signature = exported.graph_signature
    targets = [spec.target for spec in signature.input_specs if spec.target is not None]
    names = _distinct([*targets, *exported.state_dict, *exported.constants])
    if all(old == new for old, new in names.items()):
        return exported
    made = copy(exported)
    made._graph_signature = ExportGraphSignature(
        [
            replace(spec, target=None if spec.target is None else names[spec.target])
            for spec in signature.input_specs
        ],
        list(signature.output_specs),
    )
    made._state_dict = {names[name]: value for name, value in exported.state_dict.items()}
    made._constants = {names[name]: value for name, value in exported.constants.items()}
    return made


def write_paths(graph: Graph) -> None:
    """Give the modules that calls of ``graph`` stand in the names that their weights have."""
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        renamed = {key: (writable(path), kind) for key, (path, kind) in stack.items()}
        if renamed != stack:
            node.meta["nn_module_stack"] = renamed


def writable(name: str) -> str:
    """``name`` with parts that can be written.

    >>> writable("heads.class.0.weight"), writable("two words.weight"), writable("1x"), writable("")
    ('heads.class_.0.weight', 'two_words.weight', '_1x', '')
    """
    return ".".join(map(_writable_part, name.split(".")))


def _writable_part(part: str) -> str:
    if not part or why_no_name(part) is None:
        return part
    found = re.sub(r"\W", "_", part.lstrip("_")) or "_"
    if found[0].isdigit():
        return f"_{found}"
    return f"{found}_" if why_no_name(found) else found


def _distinct(names: list[str]) -> dict[str, str]:
    """A name that can be written for each of ``names``, no two the same."""
    found = {name: name for name in names if writable(name) == name}
    for name in names:
        if name not in found:
            new = writable(name)
            while new in found.values():
                new += "_"
            found[name] = new
    return found

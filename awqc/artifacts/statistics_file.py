"""Statistics on disk, so that other bits, groups or budgets need no new calibration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from awqc.artifacts.json_files import Object
from awqc.artifacts.publish import staging_file
from awqc.errors import ExportError, UsageError, spelled
from awqc.graph.linears import find_linears
from awqc.numerics.statistics import Statistics
from awqc.program import Program

KEY = "awqc.statistics"
SCHEMA = 1
FIELDS = ("abs_mean", "abs_max", "factor", "gram", "sample")
OPTIONAL = ("gram", "sample")


def fingerprint(program: Program) -> str:
    """Digest of the weights that products of ``program`` read."""
    digest = hashlib.sha256()
    for name in sorted({linear.weight_name for linear in find_linears(program.graph)}):
        weight = program.weight(name).contiguous()
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        digest.update(weight.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_statistics(program: Program, path: Path, unseen: Sequence[str]) -> None:
    """Write what calibration learned; a file at ``path`` is replaced when all is written.

    ``unseen`` are the nodes of products that calibration never reached.

    Raises:
        ExportError: it cannot be written.
    """
    distinct = {id(statistics): statistics for statistics in program.findings.statistics.values()}
    tensors: dict[str, torch.Tensor] = {}
    entries: list[dict[str, Any]] = []
    for index, (key, statistics) in enumerate(distinct.items()):
        readers = [node for node, found in program.findings.statistics.items() if id(found) == key]
        entries.append({"tokens": statistics.tokens, "readers": readers})
        for field in FIELDS:
            value = getattr(statistics, field)
            if value is not None:
                tensors[f"{index}.{field}"] = value.contiguous()
    about = {
        "schema": SCHEMA,
        "model": fingerprint(program),
        "entries": entries,
        "unseen": list(unseen),
    }
    try:
        with staging_file(path) as made:
            save_file(tensors, made, metadata={KEY: json.dumps(about)})
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path}: the statistics could not be written ({error})") from error


def _check_shapes(
    tensors: Mapping[str, torch.Tensor], shape: tuple[int, int] | None, where: str
) -> None:
    """Refuse tensors that are no statistics of what a product of ``shape`` reads.

    Raises:
        UsageError: the product is not there, or a tensor is missing or of another shape or type.
    """
    if shape is None:
        raise UsageError(f"{where}: is no product of this model")
    blocks, columns = shape
    between: dict[str, tuple[int | None, ...]] = {
        "abs_mean": (), "abs_max": (), "factor": (None,), "gram": (columns,), "sample": (None,)
    }  # fmt: skip
    for field, inner in between.items():
        tensor, wanted = tensors.get(field), (blocks, *inner, columns)
        if tensor is None and field in OPTIONAL:
            continue
        if tensor is None or not _fits(tensor, wanted):
            found = "missing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
            sizes = ", ".join("n" if size is None else str(size) for size in wanted)
            raise UsageError(
                f"{where}: {field} is {found}; finite numbers in float32 of the shape ({sizes}) "
                "are needed. Give another file name, and they are taken anew"
            )


def _fits(tensor: torch.Tensor, wanted: tuple[int | None, ...]) -> bool:
    same = len(wanted) == tensor.ndim and all(
        size in (None, found) for size, found in zip(wanted, tensor.shape, strict=True)
    )
    return same and tensor.dtype == torch.float32 and bool(tensor.isfinite().all())


def read_statistics(
    program: Program, path: Path, wanted: Mapping[str, bool]
) -> dict[str, Statistics]:
    """The statistics in ``path``, by node; tensors stay memory-mapped until used.

    Args:
        program: a program in the state that it was calibrated in.
        path: the file.
        wanted: by the node of each product that is to be quantized, whether its gram is
            needed.

    Raises:
        UsageError: it is no such file, of other weights, or lacks what is needed.
    """
    read: dict[str, Statistics] = {}
    shapes = {one.node.name: (one.blocks, one.columns) for one in find_linears(program.graph)}
    try:
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {}).get(KEY, "null"))
            if not isinstance(found, dict) or found.get("schema") != SCHEMA:
                raise UsageError(f"{path}: holds no statistics of awqc (schema {SCHEMA})")
            about = Object(found, str(path))
            unseen = about.items("unseen", str)
            if about.get("model", str) != fingerprint(program):
                raise UsageError(
                    f"{path}: the statistics are of other weights than this model's; give "
                    "another file name, and they are taken anew"
                )
            names = set(file.keys())
            for index, each in enumerate(about.items("entries", dict)):
                entry = Object(each, f"{path}, entries[{index}]")
                tensors = {
                    field: file.get_tensor(f"{index}.{field}")
                    for field in FIELDS
                    if f"{index}.{field}" in names
                }
                readers = entry.items("readers", str)
                for node in readers:
                    _check_shapes(tensors, shapes.get(node), f"{entry.where}: {node}")
                statistics = Statistics(tokens=entry.get("tokens", int), **tensors)
                read.update(dict.fromkeys(readers, statistics))
    except (OSError, ValueError, TypeError, RecursionError, SafetensorError) as error:
        raise UsageError(f"{path}: cannot be read as statistics ({error})") from error
    for node, gram in wanted.items():
        if node in unseen:
            continue
        statistics_of = read.get(node)
        if statistics_of is None:
            raise UsageError(
                f"{path}: holds nothing on what {node} reads; it was made with other "
                f"{spelled('exclude')}. Give another file name"
            )
        if gram and statistics_of.gram is None:
            raise UsageError(
                f"{path}: holds no grams, which this rounding needs: it was made with "
                f"{spelled('effort', 'fast')}. Give another file name, or ask for that too"
            )
    return read

"""Accuracy levels by what they cost on this machine.

Level 4 rounds activations to int8 and is meant to be fast; of many rows at once the exact products
are the faster ones on some processors.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx

from awqc.artifacts.manifest import MANIFEST, Entry, changed, entry_of, manifest_text, read_manifest
from awqc.artifacts.names import TUNED
from awqc.errors import UsageError, spelled
from awqc.runtimes.product_speed import seconds_of_product
from awqc.runtimes.session_file import LEVEL, LOW_BIT, set_levels

EXACT, FAST = 1, 4
GAIN = 0.95
"""Of the time at level 4 that the exact product may take: clocks are off by some."""
Seconds = Callable[[int, int, int, int, int, int], float]
"""Of a product: rows and columns of its weight, bits, block, level, and rows that it reads."""


@dataclass(frozen=True)
class TunedModel:
    """What became of one model.

    Attributes:
        model: its file.
        products: low-bit products, of which ``exact`` were made exact.
        before: seconds that all products take at the levels that they had, one thread; ``after``
            with those that they have now.
    """

    model: str
    products: int
    exact: int
    before: float
    after: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.model}: {self.exact} of {self.products} products compute exactly, since that "
            f"is faster here: {self.after * 1000:.2f} ms for all, in place of "
            f"{self.before * 1000:.2f} (one thread)"
        )


def tune(
    folder: Path, tokens: int = 1, seconds: Seconds = seconds_of_product
) -> tuple[TunedModel, ...]:
    """Make products of the models in ``folder``'s ``ort/`` exact where that is faster here.

    None becomes less exact. Sizes that the model does not fix are ``tokens``, its rows one. The
    marker of the folder knows the models as they are then, if it knew them as they were.

    Raises:
        UsageError: there is no such model, or a file of the folder was changed.
    """
    models = sorted((folder / TUNED).glob("*.onnx"))
    if not models:
        raise UsageError(
            f"{folder}: has no model in {TUNED}/; compile with {spelled('formats', 'onnx,ort')}"
        )
    files = read_manifest(folder)
    if files is not None and (touched := changed(folder, files)):
        raise UsageError(
            f"{folder}: {touched[0]} is not what awqc wrote; compile anew, or take the folder's "
            f"{MANIFEST} away to have it tuned as it is"
        )
    once = cache(seconds)
    made = []
    for path in models:
        made.append(tune_model(path, tokens, once))
        if files is not None:  # after each: a run that is ended leaves what the marker knows
            files = _marked(folder, files, path)
    return tuple(made)


def tune_model(path: Path, tokens: int, seconds: Seconds) -> TunedModel:
    """The same of the model at ``path`` alone."""
    proto = onnx.load(path, load_external_data=False)
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.value_info, *proto.graph.input)
    }
    nodes = [node for node in proto.graph.node if node.op_type == LOW_BIT]
    levels: dict[str, int] = {}
    before = after = 0.0
    for node in nodes:
        told = {each.name: each.i for each in node.attribute}
        size = (told["N"], told["K"], told["bits"], told["block_size"])
        rows, level = _rows(shapes.get(node.input[0], []), tokens), told.get(LEVEL, 0)
        now = then = seconds(*size, level, rows)
        if level == FAST:
            exact = seconds(*size, EXACT, rows)
            if exact < GAIN * now:
                levels[node.name], then = EXACT, exact
        before, after = before + now, after + then
    if levels:
        set_levels(proto, levels)
        _replace(path, proto.SerializeToString())
    return TunedModel(path.name, len(nodes), len(levels), before, after)


def _rows(shape: list[int], tokens: int) -> int:
    """How many rows a product reads of one sample: of all axes but the first and the last."""
    rows = 1
    for size in shape[1:-1]:
        rows *= size or tokens
    return rows if len(shape) > 1 else tokens


def _marked(folder: Path, files: dict[str, Entry], model: Path) -> dict[str, Entry]:
    """What the marker of ``folder`` says once it knows ``model`` as it is now."""
    name = model.relative_to(folder).as_posix()
    now = files | {name: entry_of(model)} if name in files else files
    _replace(folder / MANIFEST, manifest_text(now).encode())
    return now


def _replace(path: Path, content: bytes) -> None:
    """Let the file at ``path`` hold ``content``; at no moment it holds a part of it."""
    scratch = path.with_name(f".{path.name}.new")
    try:
        scratch.write_bytes(content)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)

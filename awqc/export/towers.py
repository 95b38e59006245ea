"""The towers of a dual encoder, each as a model of its own.

::

    model.onnx         texts, images -> text embeddings, image embeddings, their products
    text_model.onnx    texts         -> text embeddings
    vision_model.onnx  images        -> image embeddings

An output that needs some of the inputs only is a tower's. Whoever compares many texts with many
images runs each tower once for each. Weights stay where they are, in ``model.onnx.data``, which
all three read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.fx import Node

from awqc.artifacts.names import AUDIO_TOWER, IMAGE_TOWER, MODEL, TEXT_TOWER, TUNED
from awqc.errors import ExportError
from awqc.graph.nodes import results_of
from awqc.program import AUDIO, IMAGE, TEXT, Program

FILES = {TEXT: TEXT_TOWER, IMAGE: IMAGE_TOWER, AUDIO: AUDIO_TOWER}


@dataclass(frozen=True)
class Tower:
    """A part of a model that reads one kind of data.

    Attributes:
        file: its model.
        inputs: those of the whole that it needs.
        outputs: those of the whole that it gives.
    """

    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def towers_of(program: Program) -> tuple[Tower, ...]:
    """The towers of ``program``; none where it reads one kind of data, or mixes them in all.

    Two at least, which have no input in common.
    """
    media = [kind for kind in program.task.reads if kind != TEXT]
    if len(program.task.reads) < 2 or len(media) != 1:
        return ()
    kinds = {
        spec.name: media[0] if spec.dtype.is_floating_point else TEXT for spec in program.inputs
    }
    found: dict[str, tuple[set[str], list[str]]] = {}
    for output, result in zip(program.outputs, results_of(program.graph), strict=True):
        needed = _inputs(program, result)
        read = {kinds[name] for name in needed}
        if len(read) == 1:
            inputs, outputs = found.setdefault(read.pop(), (set(), []))
            inputs |= needed
            outputs.append(output)
    if len(found) < 2:
        return ()
    order = [spec.name for spec in program.inputs]
    return tuple(
        Tower(FILES[kind], tuple(name for name in order if name in inputs), tuple(outputs))
        for kind, (inputs, outputs) in found.items()
    )


def _inputs(program: Program, result: Node) -> set[str]:
    """The inputs that ``result`` is computed from."""
    names = dict(
        zip(
            (node for node in program.graph.nodes if node.op == "placeholder"),
            (spec.name for spec in program.inputs),
            strict=True,
        )
    )
    seen: set[Node] = set()
    waiting = [result]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting.extend(node.all_input_nodes)
    return {name for node, name in names.items() if node in seen}


def write_towers(towers: Sequence[Tower], folder: Path) -> None:
    """Write ``towers`` beside each form of the whole in ``folder``, whose weights they share.

    Raises:
        ExportError: a file cannot be written.
    """
    for place in (folder, folder / TUNED):
        if towers and (place / MODEL).is_file():
            try:
                _cut(place, towers)
            except OSError as error:
                raise ExportError(f"{place}: a tower could not be written: {error}") from error


def _cut(place: Path, towers: Sequence[Tower]) -> None:
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    whole = place / MODEL
    if not whole.with_name(f"{MODEL}.data").is_file():
        ir.save(ir.load(whole), whole, external_data=f"{MODEL}.data")
    for tower in towers:
        model = ir.load(whole)
        graph = model.graph
        kept = [value for value in graph.outputs if value.name in tower.outputs]
        graph.outputs[:] = kept
        passes.RemoveUnusedNodesPass()(model)
        for value in list(graph.inputs):
            if value.name not in tower.inputs:
                graph.inputs.remove(value)
        ir.save(model, place / tower.file)
